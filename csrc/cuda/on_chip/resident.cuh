#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/finish.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/on_chip/cluster.cuh"
#include "cuda/on_chip/dynamic_shared.cuh"
#include "cuda/on_chip/unit.cuh"
#include "cuda/thread/transforms.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// Statistics and transform in one launch. A group of neighbouring channels stays in shared memory
// from its only read on: in that of one block, or of the blocks of a cluster.

// A cluster per group of channels, a block per unit of it: the grid is groups * cluster. All
// threads of a block take part to the end, also those without a vector. Every block finishes the
// group for itself; the first one of the cluster stores what is to be stored. The counter is
// advanced while other channels may still be at work.
template <typename Pass, typename Tiling>
__global__ void __launch_bounds__(kBlock, kResidentBlocks<Tiling>)
    resident(const Pass pass, const Tiling tiling, const OnChipLaunch numbers, int64_t* counter) {
  using Sums = typename Pass::Reduction::Sums;
  using Coefficients = typename Pass::Transform::Coefficients;
  static_assert(sizeof(Sums) <= kSumsBytes && sizeof(Coefficients) <= kCoefficientBytes);
  unsigned char* const storage = dynamic_shared();
  const auto slots = [&](int tensor) { return slots_of<Pass>(storage, numbers, tensor); };
  Sums* const sums = reinterpret_cast<Sums*>(storage + numbers.sums_offset);
  auto* const coefficients = reinterpret_cast<Coefficients*>(storage + numbers.coefficients_offset);

  const Cluster cluster(numbers.cluster);
  const int64_t group = blockIdx.x / static_cast<unsigned>(cluster.size());
  const Unit unit{cluster.rank(), group};
  const int thread = static_cast<int>(threadIdx.x);
  const WalkOver<Tiling> walk(tiling, unit, thread);
  const int64_t first = tiling.first_channel(group);
  const int channels = static_cast<int>(tiling.channels_of(group));
  for (int i = thread; i < channels; i += static_cast<int>(blockDim.x))
    ask_for(pass.problem, first + i);
  sum_unit<AllAtOnce>(pass, slots, numbers.slots, tiling, walk, thread, sums);
  cluster.sync();

  for (int i = thread; i < channels; i += static_cast<int>(blockDim.x))
    coefficients[i] = pass.finish(first + i, merge_cluster(cluster, sums + tiling.place_of_sums(i)),
                                  cluster.rank() == 0);
  cluster.arrive();
  __syncthreads();
  transform_unit<true>(pass, slots, numbers.slots, coefficients, first, tiling, walk, unit, thread);
  cluster.wait();
  if (counter != nullptr && blockIdx.x == 0 && threadIdx.x == 0) ++*counter;
}

template <typename Pass, typename Tiling>
cudaError_t launch_resident(const Pass& pass, const Tiling& tiling, const Launch& launch,
                            int64_t* counter) {
  return launch_in_clusters(resident<Pass, Tiling>, pass, tiling, launch, counter);
}

}  // namespace torchbn::cuda
