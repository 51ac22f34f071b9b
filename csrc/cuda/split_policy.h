#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// The policy of the split kernels.
LaunchPolicy split_policy(const Extent& extent, DType dtype, bool reduces,
                          const DeviceLimits& device);

// Lays out a workspace for partial sums and for coefficients.
void lay_out_workspace(LaunchPolicy& policy, int64_t channels, int64_t parts);

}  // namespace torchbn::cuda
