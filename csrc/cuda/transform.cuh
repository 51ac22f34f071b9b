#pragma once

#include <cstdint>

#include "cuda/thread/transforms.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// Blocks loop over the units of the tiling; every thread transforms the vectors that it would
// reduce. The kernel that folded the coefficients precedes in the stream, and so does all that
// reads the counter, which one thread advances. The last units come first: where the tensor was
// reduced before, they are what the L2 cache still holds.
template <typename Walk, typename Transform, typename Tiling>
__global__ void __launch_bounds__(kBlock)
    transform(const Transform op, const Tiling tiling, int64_t* counter) {
  if (counter != nullptr && blockIdx.x == 0 && threadIdx.x == 0) ++*counter;
  for (int64_t unit = tiling.units() - 1 - blockIdx.x; unit >= 0; unit -= gridDim.x)
    apply_transform(op, tiling, Walk(tiling, unit, static_cast<int>(threadIdx.x)));
}

template <typename Transform, typename Tiling>
cudaError_t launch_transform(const Transform& op, const Tiling& tiling, int64_t* counter,
                             cudaStream_t stream) {
  transform<WalkOver<Tiling>>
      <<<static_cast<unsigned>(tiling.grid), tiling.block, 0, stream>>>(op, tiling, counter);
  return cudaGetLastError();
}

}  // namespace torchbn::cuda
