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

// Bundles of several rows, those of many channels side by side, so that each row is read in one go,
// as a stream; their sums lie in the first-level cache meanwhile.
constexpr int64_t kRunsTogether = 64;

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_bundles(const Source& source, const Strip& strip,
                                       const Bundle& bundle, int64_t first_row,
                                       const Lookahead& lookahead, const double* pivots,
                                       Lanes* lanes) {
  FloatAccumulator parts[kRunsTogether];
  const Sample sample = sample_of(bundle);
  for (int64_t first = 0; first < strip.runs; first += kRunsTogether) {
    const int64_t runs = lesser(strip.runs - first, kRunsTogether);
    const auto run = [&](int64_t i) __attribute__((always_inline)) {
      return source + (first + i) * strip.spacing;
    };
    for (int64_t i = 0; i < runs; ++i) {
      parts[i] = {};
      run(i).set_centers(parts[i], SharedPivot(pivots[first + i]), sample);
    }
    for (int64_t row = 0; row < bundle.rows; ++row) {
      for (int64_t i = 0; i < runs; ++i)
        add_row(run(i) + row * bundle.stride, bundle,
                lookahead.from(first_row + row, (first + i) * strip.spacing), parts[i]);
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

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_runs(const Source& source, const Strip& strip, const double* pivots,
                                    Lanes* lanes, const Route* prefetched) {
  const int64_t blocks = strip.length / kLanes;
  const int64_t tail = strip.length % kLanes;
  const int64_t together = kSumsInFloat<T> ? kMostFloatBlocks / (blocks + (tail > 0)) : 0;
  const Lookahead lookahead(strip, prefetched, kElementsAheadOnRoute<T>);
  for (int64_t row = 0, rows = 1; row < strip.rows; row += rows) {
    const Source first = source + row * strip.stride;
    rows = together <= 1 ? 1 : lesser(strip.rows - row, together);
    if constexpr (kSumsInFloat<T>) {
      const Bundle bundle{rows, blocks, tail, strip.stride};
      if (together > 0 && in_float(bundle)) {
        add_bundles<T>(first, strip, bundle, row, lookahead, pivots, lanes);
        continue;
      }
    }
    for (int64_t i = 0; i < strip.runs; ++i) {
      const SharedPivot pivot(pivots[i]);
      const int64_t position = i * strip.spacing;
      Accumulator sums;
      sums.load(lanes[i].first, lanes[i].second);
      for (int64_t k = 0; k < rows; ++k)
        add_run<T>(first + (k * strip.stride + position), strip.length, row + k, position,
                   lookahead, pivot, sums);
      sums.store(lanes[i].first, lanes[i].second);
    }
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
