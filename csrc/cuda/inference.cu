#include "core/affine.h"
#include "core/statistics.h"
#include "cuda/dispatch.cuh"
#include "cuda/kernels.h"
#include "cuda/normalize.h"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// One thread per channel. The copies are what the backward pass uses, so that a later change of the
// running statistics does not reach it.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    fold_running_statistics(const InferenceProblem problem, Affine<T>* coefficients) {
  const int64_t step = int64_t{gridDim.x} * kBlock;
  for (int64_t channel = int64_t{blockIdx.x} * kBlock + threadIdx.x;
       channel < problem.extent.channels; channel += step) {
    const double mean = problem.running_mean.load(channel);
    const double invstd = inverse_std(problem.running_var.load(channel), problem.eps);
    problem.save_mean[channel] = mean;
    problem.save_invstd[channel] = invstd;
    coefficients[channel] = fold_affine<T>(mean, invstd, problem.weight.load_or(channel, 1),
                                           problem.bias.load_or(channel, 0));
  }
}

}  // namespace

cudaError_t inference(const InferenceProblem& problem, const Launch& launch) {
  const cudaError_t error = with_compute_type(problem.dtype, [&]<typename T>() {
    const auto grid = static_cast<unsigned>(launch.policy.finish.grid);
    fold_running_statistics<T>
        <<<grid, kBlock, 0, launch.stream>>>(problem, coefficients<Affine<T>>(launch));
    return cudaGetLastError();
  });
  if (error != cudaSuccess) return error;
  return normalize(problem.input, problem.output, problem.dtype, nullptr, launch);
}

}  // namespace torchbn::cuda
