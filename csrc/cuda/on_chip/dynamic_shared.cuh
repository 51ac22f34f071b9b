#pragma once

#include "cuda/thread/vector.h"

namespace torchbn::cuda {

// The block's dynamic shared memory, aligned for vectors.
__device__ inline unsigned char* dynamic_shared() {
  extern __shared__ Vector<unsigned char, kVectorBytes> shared[];
  return shared->lane;
}

}  // namespace torchbn::cuda
