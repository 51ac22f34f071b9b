#include "core/finish_channel.h"
#include "cuda/dispatch.cuh"
#include "cuda/fold_and_normalize.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/normalize.h"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// What a channel's running statistics make of its values.
template <typename T>
struct RunningStatisticsFold {
  InferenceProblem problem;

  __device__ Affine<T> operator()(int64_t channel, bool stores) const {
    return finish_inference<T>(problem, channel, stores);
  }
};

// One thread per channel.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    fold_running_statistics(const RunningStatisticsFold<T> fold, Affine<T>* coefficients) {
  const int64_t step = int64_t{gridDim.x} * kBlock;
  for (int64_t channel = int64_t{blockIdx.x} * kBlock + threadIdx.x;
       channel < fold.problem.extent.channels; channel += step) {
    coefficients[channel] = fold(channel, true);
  }
}

// For tiles that share channels with others.
cudaError_t fold_then_normalize(const InferenceProblem& problem, const Launch& launch) {
  const cudaError_t error = with_compute_type(problem.dtype, [&]<typename T>() {
    return launch_kernel(fold_running_statistics<T>, launch.policy.finish.grid, kBlock,
                         launch.stream, RunningStatisticsFold<T>{problem},
                         coefficients<Affine<T>>(launch));
  });
  if (error != cudaSuccess) return error;
  return normalize(problem.input, problem.output, problem.dtype, nullptr, launch);
}

}  // namespace

cudaError_t inference(const InferenceProblem& problem, const Launch& launch) {
  if (!launch.policy.folds_in_blocks) return fold_then_normalize(problem, launch);
  return fold_and_normalize<RunningStatisticsFold>(problem, problem.input, problem.output, launch);
}

}  // namespace torchbn::cuda
