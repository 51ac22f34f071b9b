#pragma once

#include <cstdint>

#include "cuda/thread/reductions.h"
#include "cuda/tilings.h"

namespace torchbn::cuda {

// How the sums of threads become those of channels, in an order that the launch numbers alone fix.

inline constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline ShiftedSums shuffle_down(const ShiftedSums& sums, int delta, int width) {
  return {__shfl_down_sync(kAllLanes, sums.first, delta, width),
          __shfl_down_sync(kAllLanes, sums.second, delta, width)};
}

__device__ inline GradientSums shuffle_down(const GradientSums& sums, int delta, int width) {
  return {__shfl_down_sync(kAllLanes, sums.dy, delta, width),
          __shfl_down_sync(kAllLanes, sums.dy_centered, delta, width)};
}

// Merges `lanes` neighbouring lanes, a power of two, always in the same tree. All 32 lanes of the
// warp take part; the result is valid in the first of each group.
template <typename Sums>
__device__ Sums merge_lanes(Sums sums, int lanes) {
  for (int delta = lanes / 2; delta > 0; delta /= 2) sums.merge(shuffle_down(sums, delta, lanes));
  return sums;
}

// All threads of a block of whole warps take part; the result is valid in thread 0. `shared` holds
// one value per warp and may be used again at once.
template <typename Sums>
__device__ Sums merge_block(Sums sums, Sums* shared) {
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  sums = merge_lanes(sums, 32);
  if (lane == 0) shared[warp] = sums;
  __syncthreads();
  if (warp == 0) {
    sums = lane < warps ? shared[lane] : Sums{};
    sums = merge_lanes(sums, 32);
  }
  __syncthreads();
  return sums;
}

// Merges a stack of rows of `width` sums into its first row: the lower half onto the upper one
// until one row is left, in an order that `height` alone fixes. All threads of the block take part;
// the result is valid for all of them.
template <typename Sums>
__device__ void merge_stack(Sums* stack, int height, int width) {
  while (height > 1) {
    const int half = (height + 1) / 2;
    for (int i = static_cast<int>(threadIdx.x); i < (height - half) * width;
         i += static_cast<int>(blockDim.x))
      stack[in_stack(i)].merge(stack[in_stack(i + half * width)]);
    __syncthreads();
    height = half;
  }
}

// Merges what the threads of a tile have summed up, a stack of tile rows. Where the tile spans the
// virtual row it is also, and is merged as, a stack of rows of C values. The upper half hands its
// sums down, so `stack` has the room of the lower one, to which the result goes: the first
// `merged_width` of it, valid for all threads.
template <typename Reduction>
__device__ void merge_columns(LaneSums<Reduction> sums, const ChannelsLastTiling& tiling,
                              typename Reduction::Sums* stack) {
  constexpr int kWidth = Reduction::kVectorWidth;
  const int held = tiling.pitch() * kWidth;
  const int half = tiling.stack_room();
  const int own = static_cast<int>(threadIdx.x) * kWidth;
  for (int w = 0; w < kWidth; ++w)
    if (own + w >= half && own + w < held) stack[in_stack(own + w - half)] = sums.lane[w];
  __syncthreads();
  for (int w = 0; w < kWidth; ++w) {
    if (own + w >= half) continue;
    if (own + w + half < held) sums.lane[w].merge(stack[in_stack(own + w)]);
    stack[in_stack(own + w)] = sums.lane[w];
  }
  __syncthreads();
  const int width = static_cast<int>(tiling.merged_width);
  merge_stack(stack, half / width, width);
}

// A channel's parts, [parts, C], merged by `lanes` threads. All lanes of the warp take part, also
// those past the last channel; the result is valid in a channel's first lane.
template <typename Sums>
__device__ Sums merge_parts(const Sums* partials, int64_t parts, int64_t channels, int64_t channel,
                            int lanes) {
  Sums sums;
  if (channel < channels) {
#pragma unroll 8
    for (int64_t part = threadIdx.x % lanes; part < parts; part += lanes)
      sums.merge(partials[part * channels + channel]);
  }
  return merge_lanes(sums, lanes);
}

// finish(channel, sums) in one thread for each channel, which merges its parts with its neighbours,
// `lanes` threads in all. Warps stay whole for that, so blocks step over the channels together.
template <typename Sums, typename Finish>
__device__ void for_merged(const Sums* partials, int64_t parts, int64_t channels, int lanes,
                           const Finish& finish) {
  const int per_block = kBlock / lanes;
  for (int64_t base = int64_t{blockIdx.x} * per_block; base < channels;
       base += int64_t{gridDim.x} * per_block) {
    const int64_t channel = base + static_cast<int>(threadIdx.x) / lanes;
    const Sums sums = merge_parts(partials, parts, channels, channel, lanes);
    if (channel < channels && threadIdx.x % lanes == 0) finish(channel, sums);
  }
}

}  // namespace torchbn::cuda
