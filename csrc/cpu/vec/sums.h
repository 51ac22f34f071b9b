#pragma once

#include "cpu/vec/column_sums.h"
#include "cpu/vec/run_sums.h"

// The reducing primitives. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Runs too short for sums of their own: their elements are columns, each summed over the rows. What
// a run costs beside its elements, its end above all, is then paid once for all rows; what a column
// costs beside its elements is shared by few rows where there are few: only runs shorter than a
// block are dearer still. Of half types bundles of several rows (run_sums.h) are the faster ones
// early, and always where a column has too few rows for sums in float.
template <typename T>
constexpr int64_t kLongestShortRun = kSumsInFloat<T> ? 4 * kLanes : 256;
template <typename T>
constexpr int64_t kLeastRows = kSumsInFloat<T> ? kLeastFloatBlocks : 1;
constexpr int64_t kElementsPerRow = 8;

template <typename T>
TORCHBN_ALWAYS_INLINE bool has_short_runs(const Strip& strip) {
  return strip.length < kLanes ||
         (strip.rows >= kLeastRows<T> && strip.length <= kLongestShortRun<T> &&
          strip.length <= kElementsPerRow * strip.rows);
}

// The columns of a run, in the order of lanes.
TORCHBN_ALWAYS_INLINE Accumulator lanes_of(const double* first, const double* second,
                                           int64_t length) {
  Accumulator lanes = {};
  for (int64_t i = 0; i < length; i += kLanes) {
    Accumulator columns;
    columns.load(first + i, second + i);
    if (length - i < kLanes) columns.keep_lanes(kMask<int64_t> + 2 * kLanes - (length - i));
    lanes += columns;
  }
  return lanes;
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_short_runs(const Source& source, const Strip& strip,
                                          const double* pivots, double* first, double* second,
                                          const Route* prefetched) {
  alignas(64) double columns[3][kSumColumns + kLanes];
  const int64_t together = strip.spacing == strip.length ? kSumColumns / strip.length : 1;
  for (int64_t run = 0; run < strip.runs; run += together) {
    const int64_t runs = lesser(strip.runs - run, together);
    const int64_t width = runs * strip.length;
    for (int64_t i = 0; i < runs; ++i)
      spread(pivots[run + i], strip.length, columns[0] + i * strip.length);
    for (int64_t i = 0; i < width; ++i) columns[1][i] = columns[2][i] = 0;
    // What comes next is the runs beside these.
    add_table<T>(source + run * strip.spacing, {strip.rows, width, strip.stride},
                 prefetched != nullptr ? Origin::kBoth : Origin::kCaches, width, columns[0],
                 columns[1], columns[2]);
    for (int64_t i = 0; i < runs; ++i)
      lanes_of(columns[1] + i * strip.length, columns[2] + i * strip.length, strip.length)
          .add_all_lanes(first[run + i], second[run + i]);
  }
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_strip(const Source& source, const Strip& strip, const double* pivots,
                                     double* first, double* second, const Route* prefetched) {
  if (has_short_runs<T>(strip))
    add_short_runs<T>(source, strip, pivots, first, second, prefetched);
  else
    add_runs<T>(source, strip, pivots, first, second, prefetched);
}

template <typename T>
void add_moments(const T* x, const Strip& strip, const double* pivots, double* first,
                 double* second, const Route* prefetched) {
  add_strip<T>(MomentSource<T>{x}, strip, pivots, first, second, prefetched);
}

template <typename T>
void add_gradient(const T* dy, const T* x, const Strip& strip, const double* means, double* first,
                  double* second, const Route* prefetched) {
  add_strip<T>(GradientSource<T>{dy, x}, strip, means, first, second, prefetched);
}

template <typename T>
void add_column_moments(const T* x, const Strip& strip, const double* pivots, double* first,
                        double* second, Origin origin) {
  add_table<T>(MomentSource<T>{x}, strip, origin, kTableRows<T> * strip.stride, pivots, first,
               second);
}

template <typename T>
void add_column_gradient(const T* dy, const T* x, const Strip& strip, const double* means,
                         double* first, double* second, Origin origin) {
  add_table<T>(GradientSource<T>{dy, x}, strip, origin, kTableRows<T> * strip.stride, means, first,
               second);
}

}  // namespace
}  // namespace torchbn::cpu::vec
