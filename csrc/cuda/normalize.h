#pragma once

#include "cuda/kernels.h"

namespace torchbn::cuda {

// output = (input - mean) * scale + shift, with the Affine<Compute<T>> of each channel that the
// workspace holds. Adds one to the counter where there is one: all that read it run before.
cudaError_t normalize(const void* input, void* output, DType dtype, int64_t* num_batches_tracked,
                      const Launch& launch);

}  // namespace torchbn::cuda
