#pragma once

#include "cpu/vec/summands.h"

// Sums of runs, each of one channel. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Contiguous blocks; what lies `ahead` elements further on is prefetched.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_blocks(const Source& source, int64_t count, int64_t ahead,
                                      const SharedPivot& pivot, Accumulator& sums) {
  for (int64_t i = 0; i < count * kLanes; i += kLine<T>) (source + (ahead + i)).prefetch();
  const Blocks blocks{count, kLanes};
  if constexpr (kSumsInFloat<T>) {
    if (count >= kLeastFloatBlocks) {
      FloatAccumulator part = {};
      source.set_centers(part, pivot, count, kLanes);
      for (int64_t i = 0; i < count; ++i) (source + i * kLanes).add(part);
      sums += to_double(part, source, blocks, pivot);
      return;
    }
  }
  add_in_double(source, blocks, pivot, sums);
}

// One run; while its last blocks are summed, what lies `next_run` elements on is prefetched.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_run(const Source& run, int64_t length, int64_t next_run,
                                   const SharedPivot& pivot, Accumulator& sums) {
  const int64_t blocks = length / kLanes;
  const int64_t tail = length % kLanes;
  constexpr int64_t kBlocksAhead = kElementsAhead<T> / kLanes;
  const int64_t unhurried = blocks > kBlocksAhead ? blocks - kBlocksAhead : 0;
  for (int64_t block = 0; block < blocks; block += kMostFloatBlocks) {
    const int64_t count = blocks - block < kMostFloatBlocks ? blocks - block : kMostFloatBlocks;
    const int64_t ahead =
        block + count > unhurried ? next_run - unhurried * kLanes : kElementsAhead<T>;
    add_blocks<T>(run + block * kLanes, count, ahead, pivot, sums);
  }
  if (tail == 0) return;
  if (blocks > 0) {
    (run + (length - kLanes)).template add<true>(sums, pivot, kMask + tail);
  } else {
    Padded<T> buffers[2];
    run.copy(1, 0, tail, buffers).template add<true>(sums, pivot, kMask + 2 * kLanes - tail);
  }
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_runs(const Source& source, const Strip& strip, const double* pivots,
                                    Lanes* lanes) {
  Accumulator sums;
  if (strip.runs == 1) {
    const SharedPivot pivot(pivots[0]);
    sums.load(lanes[0].first, lanes[0].second);
    for (int64_t row = 0; row < strip.rows; ++row)
      add_run<T>(source + row * strip.stride, strip.length, strip.stride, pivot, sums);
    sums.store(lanes[0].first, lanes[0].second);
    return;
  }
  for (int64_t row = 0; row < strip.rows; ++row) {
    for (int64_t i = 0; i < strip.runs; ++i) {
      sums.load(lanes[i].first, lanes[i].second);
      add_run<T>(source + (row * strip.stride + i * strip.spacing), strip.length, strip.stride,
                 SharedPivot(pivots[i]), sums);
      sums.store(lanes[i].first, lanes[i].second);
    }
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
