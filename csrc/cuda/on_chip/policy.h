#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// The policy of resident or cooperative kernels that hold `tensors` tensors of the extent's size,
// where they accept it and `choice` wants them; else `split`.
LaunchPolicy on_chip_or(LaunchPolicy split, const Extent& extent, DType dtype, int tensors,
                        const DeviceLimits& device, KernelChoice choice);

// The policy of the clusters that would hold `tensors` tensors, for summing them up in one launch:
// nothing is held. `split` where there are none, and, unless they are asked for, where tensors are
// not small, or few blocks have much to do: a launch is all there is to win.
LaunchPolicy summing_in_clusters_or(LaunchPolicy split, const Extent& extent, DType dtype,
                                    int tensors, const DeviceLimits& device, KernelChoice choice);

}  // namespace torchbn::cuda
