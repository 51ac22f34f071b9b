#pragma once

#include "cuda/dispatch.cuh"
#include "cuda/launch.cuh"
#include "cuda/thread/transforms.h"
#include "cuda/transform.cuh"

namespace torchbn::cuda {

// Whether the blocks of fold_and_normalize can fold coefficients themselves. Where tiles share
// channels with others, a kernel of its own does it.
inline bool folds_in_blocks(const LaunchPolicy& policy) {
  return of_tiling(policy, [](const auto& tiling) { return tiling.tiles_are_groups(); });
}

// output = (input - mean) * scale + shift, with what Fold<Compute<T>>{problem} folds.
template <template <typename> typename Fold, typename Problem>
cudaError_t fold_and_normalize(const Problem& problem, const void* input, void* output,
                               const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const Normalize<T, kWidth> op{static_cast<const T*>(input), static_cast<T*>(output), nullptr,
                                  launch.policy.streams};
    return launch_fold_and_transform(op, Fold<Compute<T>>{problem}, tiling, launch.stream);
  });
}

}  // namespace torchbn::cuda
