#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// The policy of resident kernels that hold `tensors` tensors of the extent's size, where they
// accept it and `choice` wants them; else `split`.
LaunchPolicy resident_or(const LaunchPolicy& split, const Extent& extent, DType dtype, int tensors,
                         const DeviceLimits& device, KernelChoice choice);

}  // namespace torchbn::cuda
