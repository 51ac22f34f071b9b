#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/thread/reductions.h"
#include "cuda/thread/walk.h"
#include "cuda/tilings.h"

namespace torchbn::cuda {

// The first of the split kernels: sums of parts of channels.

// Blocks loop over units, a unit being a part of a channel of (N, C, S); every thread of the block
// takes vectors of it. Thread 0 stores the unit's sums: partials is [splits, C], which is the order
// of the units.
template <typename Reduction>
__global__ void __launch_bounds__(kBlock, kReducingBlocks)
    reduce_channels_first(const Reduction reduction, const ChannelsFirstTiling tiling,
                          typename Reduction::Sums* partials) {
  using Sums = typename Reduction::Sums;
  // As bytes, because shared memory takes no initial values.
  alignas(Sums) __shared__ unsigned char storage[kBlock / 32 * sizeof(Sums)];
  for (int64_t unit = blockIdx.x; unit < tiling.units(); unit += gridDim.x) {
    const ChannelsFirstWalk walk(tiling, unit_at(tiling, unit), static_cast<int>(threadIdx.x));
    const Sums sums = merge_block(accumulate(reduction, InPlace{}, tiling, walk),
                                  reinterpret_cast<Sums*>(storage));
    if (threadIdx.x == 0) partials[unit] = sums;
  }
}

// Blocks loop over units, a unit being a tile of (rows, C); every thread has a column of vectors in
// it. partials is [splits, partial_row], to be read as [parts, C].
template <typename Reduction>
__global__ void __launch_bounds__(kBlock, blocks_reducing_across(sizeof(typename Reduction::Value)))
    reduce_channels_last(const Reduction reduction, const ChannelsLastTiling tiling,
                         typename Reduction::Sums* partials) {
  using Sums = typename Reduction::Sums;
  // Half of a block's sums, and half a row more where the stack's height is odd.
  constexpr int kRoom = (kBlock + kLongestRow) / 2 * Reduction::kVectorWidth;
  alignas(Sums) __shared__ unsigned char storage[in_stack(kRoom) * sizeof(Sums)];
  Sums* const stack = reinterpret_cast<Sums*>(storage);
  const int width = static_cast<int>(tiling.merged_width);
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t unit = blockIdx.x; unit < tiling.units(); unit += gridDim.x) {
    const Unit at = unit_at(tiling, unit);
    merge_columns(accumulate(reduction, InPlace{}, tiling, ChannelsLastWalk(tiling, at, thread)),
                  tiling, stack);
    const int64_t begin = at.group * width;
    for (int i = thread; i < width && begin + i < tiling.partial_row; i += kBlock)
      partials[at.split * tiling.partial_row + begin + i] = stack[in_stack(i)];
    __syncthreads();  // the next unit writes the stack
  }
}

template <typename Reduction>
cudaError_t launch_reduction(const Reduction& reduction, const ChannelsFirstTiling& tiling,
                             typename Reduction::Sums* partials, cudaStream_t stream) {
  return launch_kernel(reduce_channels_first<Reduction>, tiling.grid, tiling.block, stream,
                       reduction, tiling, partials);
}

template <typename Reduction>
cudaError_t launch_reduction(const Reduction& reduction, const ChannelsLastTiling& tiling,
                             typename Reduction::Sums* partials, cudaStream_t stream) {
  return launch_kernel(reduce_channels_last<Reduction>, tiling.grid, kBlock, stream, reduction,
                       tiling, partials);
}

}  // namespace torchbn::cuda
