#pragma once

#include <cstdint>

#include "cuda/launch_policy.h"
#include "cuda/reductions.h"
#include "cuda/walk.h"

namespace torchbn::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Blocks that a multiprocessor can hold, which leaves a thread 128 registers: one block alone would
// leave memory idle while it merges.
inline constexpr int kMinBlocks = 2;

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

// Blocks loop over units, a unit being a part of a channel of (N, C, S); every thread of the block
// takes vectors of it. Thread 0 stores the unit's sums: partials is [splits, C], which is the order
// of the units.
template <typename Reduction>
__global__ void __launch_bounds__(kBlock, kMinBlocks)
    reduce_channels_first(const Reduction reduction, const ChannelsFirstTiling tiling,
                          typename Reduction::Sums* partials) {
  using Sums = typename Reduction::Sums;
  // As bytes, because shared memory takes no initial values.
  __shared__ alignas(Sums) unsigned char storage[kBlock / 32 * sizeof(Sums)];
  for (int64_t unit = blockIdx.x; unit < tiling.units(); unit += gridDim.x) {
    const ChannelsFirstWalk walk(tiling, unit, static_cast<int>(threadIdx.x));
    const Sums sums =
        merge_block(accumulate(reduction, tiling, walk), reinterpret_cast<Sums*>(storage));
    if (threadIdx.x == 0) partials[unit] = sums;
  }
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
      stack[i].merge(stack[i + half * width]);
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
    if (own + w >= half && own + w < held) stack[own + w - half] = sums.lane[w];
  __syncthreads();
  for (int w = 0; w < kWidth; ++w) {
    if (own + w >= half) continue;
    if (own + w + half < held) sums.lane[w].merge(stack[own + w]);
    stack[own + w] = sums.lane[w];
  }
  __syncthreads();
  const int width = static_cast<int>(tiling.merged_width);
  merge_stack(stack, half / width, width);
}

// Blocks loop over units, a unit being a tile of (rows, C); every thread has a column of vectors in
// it. partials is [splits, partial_row], to be read as [parts, C].
template <typename Reduction>
__global__ void __launch_bounds__(kBlock, kMinBlocks)
    reduce_channels_last(const Reduction reduction, const ChannelsLastTiling tiling,
                         typename Reduction::Sums* partials) {
  using Sums = typename Reduction::Sums;
  // Half of a block's sums, and half a row more where the stack's height is odd.
  constexpr int kRoom = (kBlock + kLongestRow) / 2 * Reduction::kVectorWidth;
  __shared__ alignas(Sums) unsigned char storage[kRoom * sizeof(Sums)];
  Sums* const stack = reinterpret_cast<Sums*>(storage);
  const int width = static_cast<int>(tiling.merged_width);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t unit = blockIdx.x; unit < tiling.units(); unit += gridDim.x) {
    merge_columns(accumulate(reduction, tiling, ChannelsLastWalk(tiling, unit, thread)), tiling,
                  stack);
    const int64_t split = unit / tiling.tiles;
    const int64_t begin = (unit - split * tiling.tiles) * width;
    for (int i = thread; i < width && begin + i < tiling.partial_row; i += kBlock)
      partials[split * tiling.partial_row + begin + i] = stack[i];
    __syncthreads();  // the next unit writes the stack
  }
}

template <typename Reduction>
cudaError_t launch_reduction(const Reduction& reduction, const ChannelsFirstTiling& tiling,
                             typename Reduction::Sums* partials, cudaStream_t stream) {
  reduce_channels_first<<<static_cast<unsigned>(tiling.grid), tiling.block, 0, stream>>>(
      reduction, tiling, partials);
  return cudaGetLastError();
}

template <typename Reduction>
cudaError_t launch_reduction(const Reduction& reduction, const ChannelsLastTiling& tiling,
                             typename Reduction::Sums* partials, cudaStream_t stream) {
  reduce_channels_last<<<static_cast<unsigned>(tiling.grid), kBlock, 0, stream>>>(reduction, tiling,
                                                                                  partials);
  return cudaGetLastError();
}

// A channel's parts, [parts, C], merged by `lanes` threads. All lanes of the warp take part, also
// those past the last channel; the result is valid in a channel's first lane.
template <typename Sums>
__device__ Sums merge_parts(const Sums* partials, int64_t parts, int64_t channels, int64_t channel,
                            int lanes) {
  Sums sums;
  if (channel < channels) {
#pragma unroll 4
    for (int64_t part = threadIdx.x % lanes; part < parts; part += lanes)
      sums.merge(partials[part * channels + channel]);
  }
  return merge_lanes(sums, lanes);
}

}  // namespace torchbn::cuda
