#pragma once

#include "cpu/vec/bundle.h"

// Sums of runs, each of one channel. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Is it worth moving to double afterwards?
TORCHBN_ALWAYS_INLINE bool in_float(const Bundle& bundle) {
  return bundle.blocks > 0 && bundle.count() >= kLeastFloatBlocks;
}

// A run of at least kLanes elements, piece by piece. Past the caches what lies a little further on
// is prefetched, behind the end of the run what lies `next_run` elements on.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_long_run(const Source& run, int64_t length, int64_t next_run,
                                        bool past_cache, const SharedPivot& pivot,
                                        Accumulator& sums) {
  constexpr int64_t kPiece = kMostFloatBlocks * kLanes;
  const int64_t unhurried = length > kElementsAhead<T> ? length - kElementsAhead<T> : 0;
  for (int64_t i = 0; i < length; i += kPiece) {
    const int64_t size = length - i < kPiece ? length - i : kPiece;
    if (past_cache) {
      const int64_t ahead = i + size > unhurried ? next_run - unhurried : kElementsAhead<T>;
      for (int64_t j = 0; j < size; j += kLine<T>) (run + (i + ahead + j)).prefetch();
    }
    const Source piece = run + i;
    const Bundle bundle{1, size / kLanes, size % kLanes, 0};
    if constexpr (kSumsInFloat<T>) {
      if (in_float(bundle)) {
        FloatAccumulator part = {};
        set_centers(piece, bundle, pivot, part);
        add_rows(piece, bundle, part);
        sums += to_double(part, piece, bundle, pivot);
        continue;
      }
    }
    add_rows(piece, bundle, sums, pivot);  // a tail alone reaches back into the piece before it
  }
}

// Bundles of several rows, those of many channels side by side, so that each row is read in one go,
// as a stream; their sums lie in the first-level cache meanwhile. What is next in a row is
// prefetched: loads that cross cache lines, as those of odd runs do, wait long for both.
constexpr int64_t kRunsTogether = 64;

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_bundles(const Source& source, const Strip& strip,
                                       const Bundle& bundle, const double* pivots, Lanes* lanes) {
  FloatAccumulator parts[kRunsTogether];
  for (int64_t first = 0; first < strip.runs; first += kRunsTogether) {
    const int64_t runs = strip.runs - first < kRunsTogether ? strip.runs - first : kRunsTogether;
    const auto run = [&](int64_t i) __attribute__((always_inline)) {
      return source + (first + i) * strip.spacing;
    };
    for (int64_t i = 0; i < runs; ++i) {
      parts[i] = {};
      set_centers(run(i), bundle, SharedPivot(pivots[first + i]), parts[i]);
    }
    for (int64_t row = 0; row < bundle.rows; ++row) {
      for (int64_t i = 0; i < runs; ++i) {
        const Source values = run(i) + row * bundle.stride;
        for (int64_t j = 0; j < strip.length; j += kLine<T>)
          (values + (kElementsAhead<T> / 2 + j)).prefetch();
        add_row(values, bundle, parts[i]);
      }
    }
    for (int64_t i = 0; i < runs; ++i) {
      Lanes& to = lanes[first + i];
      Accumulator sums;
      sums.load(to.first, to.second);
      sums += to_double(parts[i], run(i), bundle, SharedPivot(pivots[first + i]));
      sums.store(to.first, to.second);
    }
  }
}

// A run for itself.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_run(const Source& run, const Strip& strip, bool past_cache,
                                   const SharedPivot& pivot, Accumulator& sums) {
  if (strip.length >= kLanes)
    return add_long_run<T>(run, strip.length, strip.stride, past_cache, pivot, sums);
  Padded<T> buffers[2];
  run.copy(1, 0, strip.length, buffers)
      .template add<true>(sums, pivot, kMask<int64_t> + 2 * kLanes - strip.length);
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_runs(const Source& source, const Strip& strip, const double* pivots,
                                    Lanes* lanes, bool past_cache) {
  const int64_t blocks = strip.length / kLanes;
  const int64_t tail = strip.length % kLanes;
  const int64_t together = kMostFloatBlocks / (blocks + (tail > 0));
  for (int64_t row = 0, rows = 1; row < strip.rows; row += rows) {
    const Source first = source + row * strip.stride;
    rows = together <= 1 ? 1 : strip.rows - row < together ? strip.rows - row : together;
    const Bundle bundle{rows, blocks, tail, strip.stride};
    if constexpr (kSumsInFloat<T>) {
      if (together > 0 && in_float(bundle)) {
        add_bundles<T>(first, strip, bundle, pivots, lanes);
        continue;
      }
    }
    for (int64_t i = 0; i < strip.runs; ++i) {
      const SharedPivot pivot(pivots[i]);
      Accumulator sums;
      sums.load(lanes[i].first, lanes[i].second);
      for (int64_t k = 0; k < rows; ++k)
        add_run<T>(first + (k * strip.stride + i * strip.spacing), strip, past_cache, pivot, sums);
      sums.store(lanes[i].first, lanes[i].second);
    }
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
