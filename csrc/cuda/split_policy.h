#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// The policy of the split kernels. `address_bits` is the bitwise or of the addresses of all tensors
// of the extent's size.
LaunchPolicy split_policy(const Extent& extent, DType dtype, uintptr_t address_bits, bool reduces,
                          const DeviceLimits& device);

// Lays out a workspace for partial sums and for coefficients.
void lay_out_workspace(LaunchPolicy& policy, int64_t channels, int64_t parts);

}  // namespace torchbn::cuda
