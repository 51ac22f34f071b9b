#include "core/finish_channel.h"
#include "cuda/dispatch.cuh"
#include "cuda/kernels.h"
#include "cuda/normalize.h"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// One thread per channel.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    fold_running_statistics(const InferenceProblem problem, Affine<T>* coefficients) {
  const int64_t step = int64_t{gridDim.x} * kBlock;
  for (int64_t channel = int64_t{blockIdx.x} * kBlock + threadIdx.x;
       channel < problem.extent.channels; channel += step) {
    coefficients[channel] = finish_inference<T>(problem, channel);
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
