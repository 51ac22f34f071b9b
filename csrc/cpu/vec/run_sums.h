#pragma once

#include "cpu/vec/bundle.h"
#include "cpu/vec/lookahead.h"

// Sums of runs of at least kLanes elements, each of one channel. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Is it worth moving to double afterwards?
TORCHBN_ALWAYS_INLINE bool in_float(const Bundle& bundle) {
  return bundle.blocks > 0 && bundle.count() >= kLeastFloatBlocks;
}

// How far ahead on its route a thread prefetches: about what it visits of an image, so that each
// visit finds its rows on their way.
template <typename T>
constexpr int64_t kElementsAheadOnRoute = 32768 / sizeof(T);

// A run for itself, `position` elements from the beginning of the strip's row.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_run(const Source& run, int64_t length, int64_t row, int64_t position,
                                   const Lookahead& lookahead, const SharedPivot& pivot,
                                   Accumulator& sums) {
  constexpr int64_t kPiece = kMostFloatBlocks * kLanes;
  for (int64_t i = 0; i < length; i += kPiece) {
    const int64_t size = lesser(length - i, kPiece);
    const int64_t ahead = lookahead.from(row, position + i);
    const Source piece = run + i;
    const Bundle bundle{1, size / kLanes, size % kLanes, 0};
    if constexpr (kSumsInFloat<T>) {
      if (in_float(bundle)) {
        FloatAccumulator part = {};
        piece.set_centers(part, pivot, sample_of(bundle));
        add_row(piece, bundle, ahead, part);
        sums += to_double(part, piece, bundle, pivot);
        continue;
      }
    }
    add_row(piece, bundle, ahead, sums, pivot);  // a tail alone reaches back into the piece before
  }
}

// So many runs lie side by side: each row is read in one go, as a stream, and their sums are in the
// first-level cache meanwhile.
constexpr int64_t kRunsTogether = 64;

// The sums of such runs. They are complete with a strip's last row: where that is the first one
// too, they never leave the registers.
class RunSums {
 public:
  TORCHBN_ALWAYS_INLINE RunSums(int64_t rows, const double* pivots, double* first, double* second)
      : rows_(rows), pivots_(pivots), first_(first), second_(second) {}

  TORCHBN_ALWAYS_INLINE SharedPivot pivot(int64_t run) const { return SharedPivot(pivots_[run]); }

  // Those of the rows before `row`.
  TORCHBN_ALWAYS_INLINE Accumulator get(int64_t row, int64_t run) const {
    return row == 0 ? Accumulator{} : lanes_[run];
  }
  TORCHBN_ALWAYS_INLINE void put(int64_t row, int64_t run, const Accumulator& sums) {
    if (row < rows_)
      lanes_[run] = sums;
    else
      sums.add_all_lanes(first_[run], second_[run]);
  }

 private:
  int64_t rows_;
  const double* pivots_;
  double* first_;
  double* second_;
  Accumulator lanes_[kRunsTogether];
};

// A bundle of each run, the rows from `first_row` on.
template <typename Source>
TORCHBN_ALWAYS_INLINE void add_bundles(const Source& source, const Strip& strip,
                                       const Bundle& bundle, int64_t first_row,
                                       const Lookahead& lookahead, RunSums& sums) {
  const Sample sample = sample_of(bundle);
  const Source begin = source + first_row * strip.stride;
  const auto fresh = [&](int64_t run) __attribute__((always_inline)) {
    FloatAccumulator part = {};
    (begin + run * strip.spacing).set_centers(part, sums.pivot(run), sample);
    return part;
  };
  const auto add = [&](int64_t row, int64_t run, FloatAccumulator & part)
      __attribute__((always_inline)) {
    const int64_t position = run * strip.spacing;
    add_row(begin + (row * strip.stride + position), bundle,
            lookahead.from(first_row + row, position), part);
  };
  const auto finish = [&](int64_t run, const FloatAccumulator& part)
      __attribute__((always_inline)) {
    Accumulator all = sums.get(first_row, run);
    all += to_double(part, begin + run * strip.spacing, bundle, sums.pivot(run));
    sums.put(first_row + bundle.rows, run, all);
  };
  if (lookahead.exists() && bundle.rows > 1) {
    FloatAccumulator parts[kRunsTogether];
    for (int64_t run = 0; run < strip.runs; ++run) parts[run] = fresh(run);
    for (int64_t row = 0; row < bundle.rows; ++row)
      for (int64_t run = 0; run < strip.runs; ++run) add(row, run, parts[run]);
    for (int64_t run = 0; run < strip.runs; ++run) finish(run, parts[run]);
  } else {
    for (int64_t run = 0; run < strip.runs; ++run) {
      FloatAccumulator part = fresh(run);
      for (int64_t row = 0; row < bundle.rows; ++row) add(row, run, part);
      finish(run, part);
    }
  }
}

// How many rows are read side by side. Those of half types make a bundle. Else one is a stream; in
// the caches, where nothing depends on streams, short runs are better read to the last row one by
// one.
template <typename T>
TORCHBN_ALWAYS_INLINE int64_t rows_together(const Strip& strip, bool from_caches) {
  constexpr int64_t kShort = 128;
  if (kSumsInFloat<T>)
    return kMostFloatBlocks / lesser(ceil_div(strip.length, kLanes), kMostFloatBlocks);
  return from_caches && strip.length <= kShort ? strip.rows : 1;
}

// A strip of at most kRunsTogether runs.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_neighbours(const Source& source, const Strip& strip,
                                          const Lookahead& lookahead, RunSums& sums) {
  const int64_t together = rows_together<T>(strip, !lookahead.exists());
  for (int64_t row = 0, rows = 1; row < strip.rows; row += rows) {
    rows = lesser(strip.rows - row, together);
    if constexpr (kSumsInFloat<T>) {
      const Bundle bundle{rows, strip.length / kLanes, strip.length % kLanes, strip.stride};
      if (in_float(bundle) && bundle.count() <= kMostFloatBlocks) {
        add_bundles(source, strip, bundle, row, lookahead, sums);
        continue;
      }
    }
    for (int64_t run = 0; run < strip.runs; ++run) {
      const int64_t position = run * strip.spacing;
      Accumulator all = sums.get(row, run);
      for (int64_t i = row; i < row + rows; ++i)
        add_run<T>(source + (i * strip.stride + position), strip.length, i, position, lookahead,
                   sums.pivot(run), all);
      sums.put(row + rows, run, all);
    }
  }
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_runs(const Source& source, const Strip& strip, const double* pivots,
                                    double* first, double* second, const Route* prefetched) {
  const Lookahead lookahead(strip, prefetched, kElementsAheadOnRoute<T>);
  Strip part = strip;
  for (int64_t run = 0; run < strip.runs; run += kRunsTogether) {
    const int64_t position = run * strip.spacing;
    part.runs = lesser(strip.runs - run, kRunsTogether);
    RunSums sums(strip.rows, pivots + run, first + run, second + run);
    add_neighbours<T>(source + position, part, lookahead.behind(position), sums);
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
