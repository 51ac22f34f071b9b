#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// The policy of resident or cooperative kernels that hold `tensors` tensors of the extent's size,
// where they accept it and `choice` wants them; else `split`.
LaunchPolicy on_chip_or(LaunchPolicy split, const Extent& extent, DType dtype, int tensors,
                        const DeviceLimits& device, KernelChoice choice);

}  // namespace torchbn::cuda
