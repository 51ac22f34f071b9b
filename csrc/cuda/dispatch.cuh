#pragma once

#include <cuda_runtime_api.h>

#include "core/dtype.h"
#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// From run-time values to template arguments: calls launch.operator()<T, kWidth>(tiling) for the
// layout and the width that the policy chose. Channels-last always has the widest ones.
template <typename T, typename Launch>
cudaError_t with_tiling(const LaunchPolicy& policy, const Launch& launch) {
  constexpr int kFull = kVectorBytes / static_cast<int>(sizeof(T));
  if (policy.layout == Layout::kChannelsLast)
    return launch.template operator()<T, width_across(sizeof(T))>(policy.channels_last);
  if (policy.channels_first.width == kFull)
    return launch.template operator()<T, kFull>(policy.channels_first);
  if constexpr (sizeof(T) == 2) {
    if (policy.channels_first.width == kFull / 2)
      return launch.template operator()<T, kFull / 2>(policy.channels_first);
  }
  return launch.template operator()<T, 1>(policy.channels_first);
}

template <typename Launch>
cudaError_t with_tiling(DType dtype, const LaunchPolicy& policy, const Launch& launch) {
  return with_type(dtype, [&]<typename T>(T) { return with_tiling<T>(policy, launch); });
}

// Calls launch.operator()<Compute<T>>(), all that the per-channel kernels know of the dtype.
template <typename Launch>
cudaError_t with_compute_type(DType dtype, const Launch& launch) {
  return dtype == DType::kFloat64 ? launch.template operator()<double>()
                                  : launch.template operator()<float>();
}

}  // namespace torchbn::cuda
