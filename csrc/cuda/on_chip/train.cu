#include "core/statistics.h"
#include "cuda/dispatch.cuh"
#include "cuda/finish.cuh"
#include "cuda/on_chip/cooperative.cuh"
#include "cuda/on_chip/kernels.h"
#include "cuda/on_chip/resident.cuh"

namespace torchbn::cuda {

namespace {

// Where the momentum is the counter's reciprocal all channels read it, in no order: then it may be
// advanced only when all of them are done.
bool counts_afterwards(const RunningStatistics& running) {
  return running.present() && running.num_batches_tracked != nullptr && running.cumulative;
}

template <typename T, int kWidth>
struct TrainPass {
  using Value = T;
  using Reduction = MomentReduction<T, kWidth>;
  using Transform = Normalize<T, kWidth>;
  static constexpr int kTensors = 1;

  TrainProblem problem;
  bool past_caches;

  __device__ const T* tensor(int) const { return static_cast<const T*>(problem.input); }

  template <typename Sources>
  __device__ Reduction reduction(const Sources& sources) const {
    return {sources(0)};
  }

  static __device__ void keep(T* const* slots, int to, const typename Reduction::Item& item) {
    store_vector(slots[0] + to, item.x);
  }

  __device__ typename Transform::Coefficients finish(int64_t channel, const ShiftedSums& sums,
                                                     bool stores) const {
    return finish_channel<Compute<T>>(problem, channel, sums, stores);
  }

  template <typename Sources>
  __device__ Transform transform(const Sources& sources,
                                 const typename Transform::Coefficients* coefficients,
                                 int64_t first_channel) const {
    return {sources(0), static_cast<T*>(problem.output), coefficients, past_caches, first_channel};
  }
};

__global__ void advance_counter(int64_t* counter) {
  if (threadIdx.x == 0) ++*counter;
}

}  // namespace

cudaError_t train_on_chip(const TrainProblem& problem, const Launch& launch) {
  int64_t* const counter = problem.running.num_batches_tracked;
  const bool in_teams = launch.policy.on_chip.team > 0;
  const bool afterwards = !in_teams && counts_afterwards(problem.running);
  const cudaError_t error =
      with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
        const TrainPass<T, kWidth> pass{problem, launch.policy.past_caches};
        if (in_teams) return launch_cooperative(pass, tiling, launch, counter);
        return launch_resident(pass, tiling, launch, afterwards ? nullptr : counter);
      });
  if (error != cudaSuccess || !afterwards) return error;
  return launch_kernel(advance_counter, 1, 32, launch.stream, counter);
}

// All kernels are compiled for the same devices, so any of them tells.
cudaError_t code_has_clusters(bool* has) {
  cudaFuncAttributes attributes{};
  const cudaError_t error = cudaFuncGetAttributes(&attributes, advance_counter);
  // A tenth of its __CUDA_ARCH__, by which cluster.cuh goes.
  *has = error == cudaSuccess && attributes.ptxVersion >= 90;
  return error;
}

}  // namespace torchbn::cuda
