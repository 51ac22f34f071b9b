#pragma once

#include <cuda_runtime_api.h>

#include "cuda/dispatch.cuh"
#include "cuda/kernels.h"
#include "cuda/thread/reductions.h"

namespace torchbn::cuda {

// Calls launch(reduction, tiling) with what sums up the gradients in the tiling that the policy
// chose, and makes the input's meanwhile if that is the policy.
template <typename F>
cudaError_t with_gradient_reduction(const BackwardProblem& problem, const LaunchPolicy& policy,
                                    const F& launch) {
  return with_tiling(problem.dtype, policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const auto* const grad_output = static_cast<const T*>(problem.grad_output);
    // Without an input the gradient is read in its place: from the cache, the line being there.
    const GradientReduction<T, kWidth> reduction{
        grad_output, problem.reads_input() ? static_cast<const T*>(problem.input) : grad_output,
        problem.mean};
    if (!policy.maps_while_summing) return launch(reduction, tiling);
    return launch(EvaluationReduction<T, kWidth>{reduction, problem.invstd, problem.weight,
                                                 static_cast<T*>(problem.grad_input)},
                  tiling);
  });
}

}  // namespace torchbn::cuda
