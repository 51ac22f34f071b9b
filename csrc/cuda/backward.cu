#include "core/affine.h"
#include "core/gradient.h"
#include "cuda/dispatch.cuh"
#include "cuda/finish.cuh"
#include "cuda/kernels.h"
#include "cuda/normalize.h"
#include "cuda/reduce.cuh"
#include "cuda/resident.h"
#include "cuda/transform.cuh"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// `lanes` threads per channel merge its parts, none where no sums are needed; the first of them
// stores the parameters' gradients and, where the input's is wanted, its coefficients: in training
// of dy and x, in evaluation, where mean and invstd are constants, of dy alone.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    finish_gradients(const BackwardProblem problem, const GradientSums* partials, int64_t parts,
                     int lanes, GradientCoefficients<T>* training, Affine<T>* evaluation) {
  const int64_t channels = problem.extent.channels;
  const int per_block = kBlock / lanes;
  for (int64_t base = int64_t{blockIdx.x} * per_block; base < channels;
       base += int64_t{gridDim.x} * per_block) {
    const int64_t channel = base + static_cast<int>(threadIdx.x) / lanes;
    const GradientSums merged = merge_parts(partials, parts, channels, channel, lanes);
    if (channel >= channels || threadIdx.x % lanes != 0) continue;

    const GradientSums sums = finish_parameters<T>(problem, channel, merged, true);
    if (problem.grad_input == nullptr) continue;
    if (problem.training)
      training[channel] = training_coefficients<T>(problem, channel, sums);
    else
      evaluation[channel] =
          fold_affine<T>(0, problem.invstd[channel], problem.weight.load_or(channel, 1), 0);
  }
}

cudaError_t launch_reduce(const BackwardProblem& problem, const Launch& launch) {
  // Without an input the gradient is read in its place: from the cache, the line being there.
  const void* const input = problem.input != nullptr ? problem.input : problem.grad_output;
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const GradientReduction<T, kWidth> reduction{static_cast<const T*>(problem.grad_output),
                                                 static_cast<const T*>(input), problem.mean,
                                                 launch.policy.aligned};
    return launch_reduction(reduction, tiling, partial_sums<GradientSums>(launch), launch.stream);
  });
}

cudaError_t launch_finish(const BackwardProblem& problem, const Launch& launch) {
  return with_compute_type(problem.dtype, [&]<typename T>() {
    const FinishLaunch& numbers = launch.policy.finish;
    finish_gradients<T><<<static_cast<unsigned>(numbers.grid), kBlock, 0, launch.stream>>>(
        problem, partial_sums<GradientSums>(launch), launch.policy.parts, numbers.lanes,
        coefficients<GradientCoefficients<T>>(launch), coefficients<Affine<T>>(launch));
    return cudaGetLastError();
  });
}

cudaError_t launch_input_gradient(const BackwardProblem& problem, const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    using Op = InputGradient<T, kWidth>;
    const Op op{static_cast<const T*>(problem.grad_output), static_cast<const T*>(problem.input),
                static_cast<T*>(problem.grad_input),
                coefficients<typename Op::Coefficients>(launch), launch.policy.aligned};
    return launch_transform(op, tiling, nullptr, launch.stream);
  });
}

}  // namespace

cudaError_t backward(const BackwardProblem& problem, const Launch& launch) {
  if (launch.policy.resident.cluster > 0) return backward_resident(problem, launch);
  cudaError_t error = cudaSuccess;
  if (needs_sums(problem)) error = launch_reduce(problem, launch);
  if (error == cudaSuccess) error = launch_finish(problem, launch);
  if (error != cudaSuccess || problem.grad_input == nullptr) return error;
  if (problem.training) return launch_input_gradient(problem, launch);
  return normalize(problem.grad_output, problem.grad_input, problem.dtype, nullptr, launch);
}

}  // namespace torchbn::cuda
