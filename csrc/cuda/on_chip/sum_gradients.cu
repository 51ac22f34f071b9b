#include <cstdint>
#include <type_traits>

#include "cuda/finish.cuh"
#include "cuda/gradient_reduction.cuh"
#include "cuda/launch.cuh"
#include "cuda/on_chip/cluster.cuh"
#include "cuda/on_chip/dynamic_shared.cuh"
#include "cuda/on_chip/kernels.h"
#include "cuda/on_chip/unit.cuh"

namespace torchbn::cuda {

namespace {

// What is summed up, and for whom.
template <typename Reduction>
struct Summed {
  Reduction reduction;
  BackwardProblem problem;
};

// Few blocks share a multiprocessor, so that each thread has registers for more vectors under way.
// Across channels its sums take them.
struct DeepInPlace : InPlace {
  static __device__ constexpr int vectors(int useful) { return 2 * useful; }
};
template <typename Tiling>
using SourceOf =
    std::conditional_t<std::is_same_v<Tiling, ChannelsFirstTiling>, DeepInPlace, InPlace>;

// Sums and parameters' gradients in one launch, laid out as resident() is: a cluster per group of
// channels, a block per unit of it, whose first one finishes the group. Nothing is held.
template <typename Reduction, typename Tiling>
__global__ void __launch_bounds__(kBlock, kSummingBlocks)
    sum_gradients(const Summed<Reduction> summed, const Tiling tiling, const OnChipLaunch numbers) {
  using C = Compute<typename Reduction::Value>;
  auto* const sums = reinterpret_cast<GradientSums*>(dynamic_shared() + numbers.sums_offset);
  const Cluster cluster(numbers.cluster);
  const int64_t group = blockIdx.x / static_cast<unsigned>(cluster.size());
  const int thread = static_cast<int>(threadIdx.x);
  const WalkOver<Tiling> walk(tiling, Unit{cluster.rank(), group}, thread);
  const int64_t first = tiling.first_channel(group);
  const int channels = cluster.rank() == 0 ? static_cast<int>(tiling.channels_of(group)) : 0;
  for (int i = thread; i < channels; i += static_cast<int>(blockDim.x))
    ask_for(summed.problem, first + i);
  merge_unit(accumulate(summed.reduction, SourceOf<Tiling>{}, tiling, walk), tiling, sums);
  cluster.sync();

  for (int i = thread; i < channels; i += static_cast<int>(blockDim.x))
    finish_parameters<C>(summed.problem, first + i,
                         merge_cluster(cluster, sums + tiling.place_of_sums(i)), true);
  cluster.arrive();
  cluster.wait();
}

}  // namespace

cudaError_t sum_gradients_on_chip(const BackwardProblem& problem, const Launch& launch) {
  return with_gradient_reduction(
      problem, launch.policy,
      [&]<typename Reduction, typename Tiling>(const Reduction& reduction, const Tiling& tiling) {
        return launch_in_clusters(sum_gradients<Reduction, Tiling>,
                                  Summed<Reduction>{reduction, problem}, tiling, launch);
      });
}

}  // namespace torchbn::cuda
