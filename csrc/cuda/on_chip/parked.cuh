#pragma once

#include <cuda_pipeline_primitives.h>

#include <cstdint>

#include "cuda/launch_policy.h"
#include "cuda/merge.cuh"
#include "cuda/thread/reductions.h"
#include "cuda/thread/vector.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// What a tensor holds of a channel, or of some neighbouring ones, on its way to shared memory, and
// summed up there.
//
// What is computed is a pass, a type: the tensors it holds, the reduction and the transform over
// their copies, and what finishing a channel means.

// One vector on its way to shared memory. It is there when its thread has waited for its copies.
// Hardware copies 4, 8 or 16 bytes at once; others pass through registers.
template <typename T, int kWidth>
__device__ void copy_vector(T* to, const T* from, bool aligned) {
  constexpr size_t kBytes = sizeof(T) * kWidth;
  if constexpr (kBytes >= 4) {
    if (aligned) {
      __pipeline_memcpy_async(to, from, kBytes);
      return;
    }
  }
  store_vector(to, load_vector<T, kWidth>(from, aligned), true);
}

// Starts all the copies of a thread: as much is under way as the unit holds.
template <int kWidth, typename T, typename Tiling, typename Walk>
__device__ void park(const T* tensor, T* slots, const Tiling& tiling, ParkedWalk<Walk> walk,
                     bool aligned) {
#pragma unroll 4
  for (; walk.left > 0; --walk.left) {
    copy_vector<T, kWidth>(slots + walk.from(), tensor + walk.next, aligned);
    walk.step(tiling);
  }
  if constexpr (requires { walk.short_vector; }) {
    for (int w = 0; w < walk.short_vector; ++w) slots[walk.from() + w] = tensor[walk.next + w];
  }
}

__device__ inline void wait_for_copies() {
  __pipeline_commit();
  __pipeline_wait_prior(0);
}

// Merges the sums of each plane's values to the first of them, a warp to a plane.
template <typename Sums>
__device__ void merge_planes(const ChannelsLastTiling& tiling, Sums* shared) {
  const int plane = static_cast<int>(tiling.plane);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int begin = static_cast<int>(threadIdx.x) / 32 * plane; begin < tiling.merged_width;
       begin += kBlock / 32 * plane) {
    Sums sums;
    for (int i = lane; i < plane; i += 32) sums.merge(shared[begin + i]);
    sums = merge_lanes(sums, 32);
    if (lane == 0) shared[begin] = sums;
  }
}

// What the threads of a block have summed up, merged to one value per channel of the group, `plane`
// values apart in `shared`. Valid for the block after its next barrier.
template <typename Sums>
__device__ void merge_unit(const Sums& own, const ChannelsFirstTiling&, Sums* shared) {
  const Sums sums = merge_block(own, shared);
  if (threadIdx.x == 0) shared[0] = sums;
}
template <typename Reduction>
__device__ void merge_unit(const LaneSums<Reduction>& own, const ChannelsLastTiling& tiling,
                           typename Reduction::Sums* shared) {
  merge_columns(own, tiling, shared);
  if (tiling.plane > 1) merge_planes(tiling, shared);
}

// Where a block keeps its part of a tensor, in its dynamic shared memory.
template <typename Pass>
__device__ typename Pass::Value* slots_of(unsigned char* storage, const OnChipLaunch& numbers,
                                          int tensor) {
  return reinterpret_cast<typename Pass::Value*>(storage + tensor * numbers.tensor_bytes);
}

// Brings a unit of all tensors to shared memory and sums it up. All threads of the block take part,
// also those whose walk is empty; the sums are as merge_unit() leaves them.
template <typename Pass, typename Slots, typename Tiling, typename Walk, typename Sums>
__device__ void sum_parked(const Pass& pass, const Slots& slots, const Tiling& tiling,
                           const ParkedWalk<Walk>& walk, Sums* sums) {
  for (int t = 0; t < Pass::kTensors; ++t)
    park<Pass::Reduction::kVectorWidth>(pass.tensor(t), slots(t), tiling, walk, pass.aligned);
  wait_for_copies();
  merge_unit(accumulate(pass.reduction(slots), tiling, walk), tiling, sums);
}

}  // namespace torchbn::cuda
