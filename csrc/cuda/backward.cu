#include "core/affine.h"
#include "core/gradient.h"
#include "cuda/dispatch.cuh"
#include "cuda/finish.cuh"
#include "cuda/fold_and_normalize.cuh"
#include "cuda/gradient_reduction.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/normalize.h"
#include "cuda/on_chip/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/transform.cuh"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// Merges each channel's parts, none where no sums are needed. Stores the parameters' gradients and
// the coefficients of the input's, where there is room: in training of dy and x, in evaluation,
// where mean and invstd are constants, of dy alone.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    finish_gradients(const BackwardProblem problem, const GradientSums* partials, int64_t parts,
                     int lanes, GradientCoefficients<T>* training, Affine<T>* evaluation) {
  const auto finish = [&](int64_t channel, const GradientSums& merged) {
    const GradientSums sums = finish_parameters<T>(problem, channel, merged, true);
    if (training != nullptr) training[channel] = training_gradient<T>(problem, channel, sums);
    if (evaluation != nullptr) evaluation[channel] = evaluation_gradient<T>(problem, channel);
  };
  for_merged(partials, parts, problem.extent.channels, lanes, finish);
}

// In evaluation, the map of a channel's gradients: a factor alone.
template <typename T>
struct EvaluationGradientFold {
  BackwardProblem problem;

  __device__ Affine<T> operator()(int64_t channel, bool) const {
    return evaluation_gradient<T>(problem, channel);
  }
};

// Is the input's gradient left to a kernel of its own?
bool transforms(const BackwardProblem& problem, const Launch& launch) {
  return problem.grad_input != nullptr && !launch.policy.maps_while_summing;
}

cudaError_t launch_reduce(const BackwardProblem& problem, const Launch& launch) {
  return with_gradient_reduction(
      problem, launch.policy, [&](const auto& reduction, const auto& tiling) {
        return launch_reduction(reduction, tiling, partial_sums<GradientSums>(launch),
                                launch.stream);
      });
}

cudaError_t launch_finish(const BackwardProblem& problem, const Launch& launch) {
  return with_compute_type(problem.dtype, [&]<typename T>() {
    const FinishLaunch& numbers = launch.policy.finish;
    const bool folds = transforms(problem, launch);
    auto* const training = coefficients<GradientCoefficients<T>>(launch);
    auto* const evaluation = coefficients<Affine<T>>(launch);
    return launch_kernel(finish_gradients<T>, numbers.grid, kBlock, launch.stream, problem,
                         partial_sums<GradientSums>(launch), launch.policy.parts, numbers.lanes,
                         folds && problem.training ? training : nullptr,
                         folds && !problem.training ? evaluation : nullptr);
  });
}

cudaError_t launch_input_gradient(const BackwardProblem& problem, const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    using Op = InputGradient<T, kWidth>;
    const Op op{static_cast<const T*>(problem.grad_output), static_cast<const T*>(problem.input),
                static_cast<T*>(problem.grad_input),
                coefficients<typename Op::Coefficients>(launch), launch.policy.past_caches};
    return launch_transform(op, tiling, nullptr, launch.stream);
  });
}

}  // namespace

cudaError_t backward(const BackwardProblem& problem, const Launch& launch) {
  if (launch.policy.on_chip.used())
    return problem.maps_after_sums() ? backward_on_chip(problem, launch)
                                     : sum_gradients_on_chip(problem, launch);
  if (launch.policy.folds_in_blocks && transforms(problem, launch))
    return fold_and_normalize<EvaluationGradientFold>(problem, problem.grad_output,
                                                      problem.grad_input, launch);
  cudaError_t error = cudaSuccess;
  if (problem.needs_sums()) error = launch_reduce(problem, launch);
  if (error == cudaSuccess) error = launch_finish(problem, launch);
  if (error != cudaSuccess || !transforms(problem, launch)) return error;
  if (problem.training) return launch_input_gradient(problem, launch);
  return normalize(problem.grad_output, problem.grad_input, problem.dtype, nullptr, launch);
}

}  // namespace torchbn::cuda
