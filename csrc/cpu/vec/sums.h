#pragma once

#include "cpu/vec/column_sums.h"
#include "cpu/vec/run_sums.h"

// The reducing primitives. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Runs too short for sums of their own: their elements are columns, each summed over the rows.
constexpr int64_t kShortRun = kLeastFloatBlocks * kLanes;
constexpr int64_t kLeastRows = kLeastFloatBlocks;

// The columns of a run, in the order of lanes.
TORCHBN_ALWAYS_INLINE void add_to_lanes(const double* first, const double* second, int64_t length,
                                        Lanes& lanes) {
  for (int64_t i = 0; i < length; ++i) {
    lanes.first[i % kLanes] += first[i];
    lanes.second[i % kLanes] += second[i];
  }
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_short_runs(const Source& source, const Strip& strip,
                                          const double* pivots, Lanes* lanes) {
  alignas(64) double columns[3][kSumColumns + kLanes];
  const int64_t together = strip.spacing == strip.length ? kSumColumns / strip.length : 1;
  for (int64_t run = 0; run < strip.runs; run += together) {
    const int64_t runs = strip.runs - run < together ? strip.runs - run : together;
    const int64_t width = runs * strip.length;
    for (int64_t i = 0; i < runs; ++i)
      for (int64_t j = 0; j < strip.length; ++j) columns[0][i * strip.length + j] = pivots[run + i];
    for (int64_t i = 0; i < width; ++i) columns[1][i] = columns[2][i] = 0;
    add_table<T>(source + run * strip.spacing, {strip.rows, width, strip.stride}, columns[0],
                 columns[1], columns[2]);
    for (int64_t i = 0; i < runs; ++i)
      add_to_lanes(columns[1] + i * strip.length, columns[2] + i * strip.length, strip.length,
                   lanes[run + i]);
  }
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_strip(const Source& source, const Strip& strip, const double* pivots,
                                     Lanes* lanes) {
  if (strip.rows >= kLeastRows && strip.length <= kShortRun)
    add_short_runs<T>(source, strip, pivots, lanes);
  else
    add_runs<T>(source, strip, pivots, lanes);
}

template <typename T>
void add_moments(const T* x, const Strip& strip, const double* pivots, Lanes* sums) {
  add_strip<T>(Moments<T>{x}, strip, pivots, sums);
}

template <typename T>
void add_gradient(const T* dy, const T* x, const Strip& strip, const double* means, Lanes* sums) {
  add_strip<T>(Gradients<T>{dy, x}, strip, means, sums);
}

template <typename T>
void add_column_moments(const T* x, const Strip& strip, const double* pivots, double* first,
                        double* second) {
  add_table<T>(Moments<T>{x}, strip, pivots, first, second);
}

template <typename T>
void add_column_gradient(const T* dy, const T* x, const Strip& strip, const double* means,
                         double* first, double* second) {
  add_table<T>(Gradients<T>{dy, x}, strip, means, first, second);
}

}  // namespace
}  // namespace torchbn::cpu::vec
