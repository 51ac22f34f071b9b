#pragma once

#include "cpu/vec/bundle.h"

// Sums of columns. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Columns whose sums lie in the first-level cache while rows go by: of each row as long a
// piece is read in one go, which is a stream to the prefetchers. Column after column would touch
// another page with every row (half the speed at 2048 channels).
constexpr int64_t kSumColumns = 512;

// Rows that go by before the next columns: as many as a float sum takes, and no more bytes of wider
// types.
template <typename T>
constexpr int64_t kTableRows = kSumsInFloat<T> ? kMostFloatBlocks : kMostFloatBlocks / 2;
static_assert(kRowsTogether % kTableRows<float> == 0 && kRowsTogether % kTableRows<double> == 0 &&
              kRowsTogether % kTableRows<BFloat16> == 0 &&
              kRowsTogether % kTableRows<Float16> == 0);

// Rows that are added to the sums while these are in registers. Those of more rows would leave too
// few for what comes from memory (a tenth slower there). In float they are a chain.
constexpr int kSumRows = 4;

struct alignas(64) FloatColumns {
  float center[kSumColumns];
  float first[kSumColumns];
  float second[kSumColumns];
};

// Adds `rows` rows of `width` columns, a multiple of kLanes that is at most kSumColumns. What lies
// `ahead` elements further on is prefetched, if that is not 0.
template <typename Source>
TORCHBN_ALWAYS_INLINE void add_float_rows(const Source& source, int64_t rows, int64_t stride,
                                          int64_t width, int64_t ahead, FloatColumns& sums) {
  for (int64_t row = 0; row < rows; row += kSumRows) {
    const int64_t count = lesser(rows - row, kSumRows);
    const Source block = source + row * stride;
    for (int64_t i = 0; i < width; i += kLanes) {
      FloatAccumulator part;
      part.load(sums.center + i, sums.first + i, sums.second + i);
      if (count == kSumRows) {
        FloatAccumulator chain = part.fresh();
        unroll<kSumRows>([&](auto k) __attribute__((always_inline)) {
          if (ahead != 0) (block + (k * stride + i + ahead)).prefetch();
          (block + (k * stride + i)).template add<false>(chain, nullptr);
        });
        part += chain;
      } else {
        for (int64_t k = 0; k < count; ++k)
          (block + (k * stride + i)).template add<false>(part, nullptr);
      }
      part.store(sums.first + i, sums.second + i);
    }
  }
}

// The same for doubles, `kTogether` rows at a time.
template <int kTogether, typename Source>
TORCHBN_ALWAYS_INLINE void add_double_rows(const Source& source, int64_t rows, int64_t stride,
                                           int64_t width, int64_t ahead, const double* pivots,
                                           double* first, double* second) {
  for (int64_t row = 0; row < rows; row += kTogether) {
    const int64_t count = lesser(rows - row, kTogether);
    const Source block = source + row * stride;
    for (int64_t i = 0; i < width; i += kLanes) {
      const LanePivots pivot(pivots + i);
      Accumulator sums;
      sums.load(first + i, second + i);
      if (count == kTogether) {
        unroll<kTogether>([&](auto k) __attribute__((always_inline)) {
          if (ahead != 0) (block + (k * stride + i + ahead)).prefetch();
          (block + (k * stride + i)).template add<false>(sums, pivot, nullptr);
        });
      } else {
        for (int64_t k = 0; k < count; ++k)
          (block + (k * stride + i)).template add<false>(sums, pivot, nullptr);
      }
      sums.store(first + i, second + i);
    }
  }
}

// One block of columns, of which those that `mask` selects are wanted.
template <typename Source>
TORCHBN_ALWAYS_INLINE void add_masked_rows(const Source& source, int64_t rows, int64_t stride,
                                           const double* pivots, double* first, double* second,
                                           const int64_t* mask) {
  const LanePivots pivot(pivots);
  Accumulator sums;
  sums.load(first, second);
  for (int64_t row = 0; row < rows; ++row)
    (source + row * stride).template add<true>(sums, pivot, mask);
  sums.store(first, second);
}

// `rows` <= kMostFloatBlocks rows of `width` <= kSumColumns columns; with a mask these are kLanes.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_columns(const Source& source, int64_t rows, int64_t stride,
                                       int64_t width, Origin origin, int64_t ahead,
                                       const double* pivots, double* first, double* second,
                                       const int64_t* mask) {
  if constexpr (kSumsInFloat<T>) {
    if (rows >= kLeastFloatBlocks) {
      const Bundle bundle{rows, 1, 0, stride};
      const Sample sample = sample_of(bundle);
      FloatColumns columns;
      for (int64_t i = 0; i < width; i += kLanes) {
        FloatAccumulator part = {};
        (source + i).set_centers(part, LanePivots(pivots + i), sample);
        part.store(columns.first + i, columns.second + i);
        part.store_centers(columns.center + i);
      }
      add_float_rows(source, rows, stride, width, ahead, columns);
      for (int64_t i = 0; i < width; i += kLanes) {
        FloatAccumulator part;
        part.load(columns.center + i, columns.first + i, columns.second + i);
        Accumulator added = to_double(part, source + i, bundle, LanePivots(pivots + i));
        if (mask != nullptr) added.keep_lanes(mask);
        Accumulator sums;
        sums.load(first + i, second + i);
        sums += added;
        sums.store(first + i, second + i);
      }
      return;
    }
  }
  // From memory, two tensors are read faster in the order in which they lie there.
  const bool singly = Source::kTensors > 1 && origin == Origin::kMemory;
  if (mask != nullptr)
    add_masked_rows(source, rows, stride, pivots, first, second, mask);
  else if (singly)
    add_double_rows<1>(source, rows, stride, width, ahead, pivots, first, second);
  else
    add_double_rows<kSumRows>(source, rows, stride, width, ahead, pivots, first, second);
}

// Some rows at a time, of these as many columns at a time. Prefetched is what comes next; behind
// the last columns what lies `next` elements after the first of them.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_table(const Source& source, const Strip& strip, Origin origin,
                                     int64_t next, const double* pivots, double* first,
                                     double* second) {
  if (origin == Origin::kCaches) next = 0;
  const int64_t whole = strip.length / kLanes * kLanes;
  const int64_t tail = strip.length - whole;
  for (int64_t row = 0; row < strip.rows; row += kTableRows<T>) {
    const int64_t rows = lesser(strip.rows - row, kTableRows<T>);
    const Source block = source + row * strip.stride;
    for (int64_t i = 0; i < whole; i += kSumColumns) {
      const int64_t width = lesser(whole - i, kSumColumns);
      const int64_t ahead = next == 0 ? 0 : i + width < whole ? width : next - i;
      add_columns<T>(block + i, rows, strip.stride, width, origin, ahead, pivots + i, first + i,
                     second + i, nullptr);
    }
    if (tail == 0) continue;
    if (whole > 0) {
      const int64_t i = strip.length - kLanes;
      add_columns<T>(block + i, rows, strip.stride, kLanes, origin, next, pivots + i, first + i,
                     second + i, kMask<int64_t> + tail);
      continue;
    }
    Padded<T> buffers[2];
    add_columns<T>(block.copy(rows, strip.stride, tail, buffers), rows, kLanes, kLanes,
                   Origin::kCaches, 0, pivots, first, second, kMask<int64_t> + 2 * kLanes - tail);
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
