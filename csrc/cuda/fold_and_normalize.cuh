#pragma once

#include "cuda/dispatch.cuh"
#include "cuda/launch.cuh"
#include "cuda/thread/transforms.h"
#include "cuda/transform.cuh"

namespace torchbn::cuda {

// In one launch, where the policy has blocks fold: the output is the input under the Affine that
// Fold<Compute<T>>{problem} makes of each channel.
template <template <typename> typename Fold, typename Problem>
cudaError_t fold_and_normalize(const Problem& problem, const void* input, void* output,
                               const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const Normalize<T, kWidth> op{static_cast<const T*>(input), static_cast<T*>(output), nullptr,
                                  launch.policy.past_caches};
    return launch_fold_and_transform(op, Fold<Compute<T>>{problem}, tiling, launch.stream);
  });
}

}  // namespace torchbn::cuda
