#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/thread/transforms.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// Blocks loop over the units of the tiling; every thread transforms the vectors that it would
// reduce. The kernel that folded the coefficients precedes in the stream, and so does all that
// reads the counter, which one thread advances. The last units come first: where the tensor was
// reduced before, they are what the L2 cache still holds.
template <typename Transform, typename Tiling>
__global__ void __launch_bounds__(kBlock, kTransformingBlocks)
    transform(const Transform op, const Tiling tiling, int64_t* counter) {
  using Walk = WalkOver<Tiling>;
  if (counter != nullptr && blockIdx.x == 0 && threadIdx.x == 0) ++*counter;
  for (int64_t unit = tiling.units() - 1 - blockIdx.x; unit >= 0; unit -= gridDim.x)
    apply_transform(op, tiling, Walk(tiling, unit_at(tiling, unit), static_cast<int>(threadIdx.x)));
}

template <typename Transform, typename Tiling>
cudaError_t launch_transform(const Transform& op, const Tiling& tiling, int64_t* counter,
                             cudaStream_t stream) {
  return launch_kernel(transform<Transform, Tiling>, tiling.grid, tiling.block, stream, op, tiling,
                       counter);
}

// The same where coefficients follow from what each channel has, without any sums: blocks fold
// those of a unit themselves, as fold(channel, stores). Only for tilings whose tiles are groups.
template <typename Transform, typename Fold, typename Tiling>
__global__ void __launch_bounds__(kBlock, kTransformingBlocks)
    fold_and_transform(Transform op, const Fold fold, const Tiling tiling) {
  using Walk = WalkOver<Tiling>;
  using Coefficients = typename Transform::Coefficients;
  constexpr int kMost = kLongestRow * Transform::kVectorWidth;
  alignas(Coefficients) __shared__ unsigned char storage[kMost * sizeof(Coefficients)];
  auto* const coefficients = reinterpret_cast<Coefficients*>(storage);
  op.coefficients = coefficients;
  for (int64_t unit = blockIdx.x; unit < tiling.units(); unit += gridDim.x) {
    const Unit at = unit_at(tiling, unit);
    op.first_channel = tiling.first_channel(at.group);
    const int channels = static_cast<int>(tiling.channels_of(at.group));
    for (int i = static_cast<int>(threadIdx.x); i < channels; i += static_cast<int>(blockDim.x))
      coefficients[i] = fold(op.first_channel + i, at.split == 0);
    __syncthreads();
    apply_transform(op, tiling, Walk(tiling, at, static_cast<int>(threadIdx.x)));
    __syncthreads();  // the next unit's coefficients take this one's place
  }
}

template <typename Transform, typename Fold, typename Tiling>
cudaError_t launch_fold_and_transform(const Transform& op, const Fold& fold, const Tiling& tiling,
                                      cudaStream_t stream) {
  return launch_kernel(fold_and_transform<Transform, Fold, Tiling>, tiling.grid, tiling.block,
                       stream, op, fold, tiling);
}

}  // namespace torchbn::cuda
