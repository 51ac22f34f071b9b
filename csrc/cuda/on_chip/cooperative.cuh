#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/finish.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/on_chip/dynamic_shared.cuh"
#include "cuda/on_chip/unit.cuh"
#include "cuda/thread/transforms.h"
#include "cuda/thread/walk.h"
#include "cuda/workspace.h"

namespace torchbn::cuda {

// As resident kernels, for groups of channels that are too large for a cluster, or too few to fill
// the device with clusters. All blocks run at once, a team for each group, or some groups and then
// the next ones. Teams meet in global memory: their sums lie there as those of the split kernels
// do, with a row for every block of a team. What does not fit on the device is read twice.

// The channels that are finished in a round, a warp of the grid each, neighbours in different
// blocks. Teams share this work, because every one of their blocks adds to the sums.
struct FinishedChannels {
  int64_t next, end;  // this warp's first, and all channels'

  template <typename Tiling>
  __device__ FinishedChannels(const Tiling& tiling, int64_t first_group, int64_t end_group)
      : next(tiling.first_channel(first_group) + int64_t{threadIdx.x / 32} * gridDim.x +
             blockIdx.x),
        end(end_group < tiling.groups() ? tiling.first_channel(end_group) : tiling.channels) {}

  template <typename Pass>
  __device__ void ask_for_first(const Pass& pass) const {
    if (next < end && threadIdx.x % 32 == 0) ask_for(pass.problem, next);
  }

  template <typename Pass, typename Sums, typename Coefficients>
  __device__ void finish(const Pass& pass, const Sums* partials, int64_t parts, int64_t channels,
                         Coefficients* coefficients) const {
    const int64_t warps = int64_t{blockDim.x / 32} * gridDim.x;
    for (int64_t channel = next; channel < end; channel += warps) {
      const Sums merged = merge_parts(partials, parts, channels, channel, 32);
      if (threadIdx.x % 32 == 0) coefficients[channel] = pass.finish(channel, merged, true);
    }
  }
};

// What a block does in the round that begins with the group `first`.
struct Share {
  int64_t rank;   // in its team
  int64_t group;  // past the last one where the team has none

  __device__ Share(const OnChipLaunch& numbers, int64_t first) {
    const auto teams = static_cast<unsigned>(numbers.teams);
    const unsigned block = anew(blockIdx.x);
    rank = block / teams;
    group = first + block % teams;
  }

  // A number of which the compiler knows nothing: what follows from it is computed again where it
  // is needed again, since there are no registers to keep it in.
  static __device__ unsigned anew(unsigned number) {
    asm volatile("" : "+r"(number));
    return number;
  }
};

// Leaves a block's sums of its group where those of the other blocks are.
template <typename Tiling, typename Sums>
__device__ void publish(const Tiling& tiling, const Share& share, const Sums* sums,
                        Sums* partials) {
  if (share.group >= tiling.groups()) return;
  Sums* const to = partials + share.rank * tiling.channels + tiling.first_channel(share.group);
  const int channels = static_cast<int>(tiling.channels_of(share.group));
  for (int i = static_cast<int>(threadIdx.x); i < channels; i += static_cast<int>(blockDim.x))
    to[i] = sums[tiling.place_of_sums(i)];
}

// The grid is teams * team. The counter is advanced when all channels have read what they need of
// it.
template <typename Pass, typename Tiling>
__global__ void __launch_bounds__(kBlock, kCooperativeBlocks)
    cooperative(const Pass pass, const Tiling tiling, const OnChipLaunch numbers,
                typename Pass::Reduction::Sums* partials,
                typename Pass::Transform::Coefficients* coefficients, int64_t* counter) {
  unsigned char* const storage = dynamic_shared();
  const auto slots = [&](int tensor) { return slots_of<Pass>(storage, numbers, tensor); };
  auto* const sums =
      reinterpret_cast<typename Pass::Reduction::Sums*>(storage + numbers.sums_offset);
  // Of a round's unit, together with its walk and the thread.
  const auto with_unit = [&](int64_t first, const auto& work) {
    const Share share(numbers, first);
    const Unit unit = unit_of(tiling, share.rank, share.group);
    const int thread = static_cast<int>(Share::anew(threadIdx.x));
    work(WalkOver<Tiling>(tiling, unit, thread), unit, thread);
  };

  for (int64_t first = 0; first < tiling.groups(); first += numbers.teams) {
    with_unit(first, [&](const auto& walk, Unit, int thread) {
      sum_unit<FirstOnesKept>(pass, slots, numbers.slots, tiling, walk, thread, sums);
    });
    __syncthreads();
    publish(tiling, Share(numbers, first), sums, partials);
    const FinishedChannels finished(tiling, first, first + numbers.teams);
    finished.ask_for_first(pass);
    cooperative_groups::this_grid().sync();

    finished.finish(pass, partials, numbers.team, tiling.channels, coefficients);
    cooperative_groups::this_grid().sync();
    with_unit(first, [&](const auto& walk, Unit unit, int thread) {
      transform_unit<false>(pass, slots, numbers.slots, coefficients, 0, tiling, walk, unit,
                            thread);
    });
    // Nobody has to wait, but the compiler would mix two rounds and run out of registers.
    __syncthreads();
  }
  if (counter != nullptr && blockIdx.x == 0 && threadIdx.x == 0) ++*counter;
}

template <typename Pass, typename Tiling>
cudaError_t launch_cooperative(const Pass& pass, const Tiling& tiling, const Launch& launch,
                               int64_t* counter) {
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  return launch_on_chip(cooperative<Pass, Tiling>, &together, pass, tiling, launch,
                        partial_sums<typename Pass::Reduction::Sums>(launch),
                        coefficients<typename Pass::Transform::Coefficients>(launch), counter);
}

}  // namespace torchbn::cuda
