#pragma once

#include <cuda_pipeline_primitives.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/cluster.cuh"
#include "cuda/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/transforms.h"
#include "cuda/walk.h"

namespace torchbn::cuda {

// Statistics and transform in one launch. What a tensor holds of a channel, or of some neighbouring
// ones, stays in shared memory from its only read on: that of one block, or of the blocks of a
// cluster.
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

// The blocks' sums in the order of their ranks.
template <typename Sums>
__device__ Sums merge_cluster(const Cluster& cluster, Sums* own) {
  Sums sums = *cluster.of_rank(own, 0);
  for (int rank = 1; rank < cluster.size(); ++rank) sums.merge(*cluster.of_rank(own, rank));
  return sums;
}

// Where a block keeps its part of a tensor, in its dynamic shared memory.
template <typename Pass>
__device__ typename Pass::Value* slots_of(unsigned char* storage, const ResidentLaunch& numbers,
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

// A cluster per group of channels, a block per unit of it: the grid is groups * cluster. All
// threads of a block take part to the end, also those without a vector. Every block finishes the
// group for itself; the first one of the cluster stores what is to be stored.
template <typename Walk, typename Pass, typename Tiling>
__global__ void __launch_bounds__(kBlock, kMinBlocks)
    resident(const Pass pass, const Tiling tiling, const ResidentLaunch numbers) {
  using Sums = typename Pass::Reduction::Sums;
  using Coefficients = typename Pass::Transform::Coefficients;
  extern __shared__ Vector<unsigned char, kVectorBytes> shared[];
  unsigned char* const storage = shared->lane;
  const auto slots = [&](int tensor) { return slots_of<Pass>(storage, numbers, tensor); };
  Sums* const sums = reinterpret_cast<Sums*>(storage + numbers.sums_offset);
  auto* const coefficients = reinterpret_cast<Coefficients*>(storage + numbers.coefficients_offset);

  const Cluster cluster(numbers.cluster);
  const int64_t group = blockIdx.x / static_cast<unsigned>(cluster.size());
  const ParkedWalk<Walk> walk(tiling, cluster.rank() * tiling.groups() + group,
                              static_cast<int>(threadIdx.x));
  sum_parked(pass, slots, tiling, walk, sums);
  cluster.sync();

  const int64_t first = tiling.first_channel(group);
  const int channels = static_cast<int>(tiling.channels_of(group));
  for (int i = static_cast<int>(threadIdx.x); i < channels; i += static_cast<int>(blockDim.x))
    coefficients[i] = pass.finish(first + i, merge_cluster(cluster, sums + i * tiling.sums_apart()),
                                  cluster.rank() == 0);
  cluster.arrive();
  __syncthreads();
  apply_transform(pass.transform(slots, coefficients, first), tiling, walk);
  cluster.wait();
}

// Launches kernel(pass, tiling, numbers, more...), whose blocks belong together as the attribute,
// if there is one, says. More than 48 KiB of shared memory are for those who ask. A kernel may be
// launched by several threads at once, so all of them ask for the same. Nothing is waited for: a
// graph may be captured.
template <typename Kernel, typename Pass, typename Tiling, typename... More>
cudaError_t launch_on_chip(Kernel* kernel, cudaLaunchAttribute* together, const Pass& pass,
                           const Tiling& tiling, const Launch& launch, More... more) {
  const ResidentLaunch& numbers = launch.policy.resident;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(numbers.shared_limit));
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(tiling.grid), 1, 1};
  config.blockDim = {static_cast<unsigned>(tiling.block), 1, 1};
  config.dynamicSmemBytes = static_cast<size_t>(numbers.shared_bytes);
  config.stream = launch.stream;
  config.attrs = together;
  config.numAttrs = together != nullptr ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, pass, tiling, numbers, more...);
}

template <typename Walk, typename Pass, typename Tiling>
cudaError_t launch_resident(const Pass& pass, const Tiling& tiling, const Launch& launch) {
  const int blocks = launch.policy.resident.cluster;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  return launch_on_chip(resident<Walk, Pass, Tiling>, blocks > 1 ? &cluster : nullptr, pass, tiling,
                        launch);
}

}  // namespace torchbn::cuda
