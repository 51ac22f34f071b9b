#pragma once

#include <algorithm>

#include "cpu/vec/map_streams.h"

// The element-wise loops. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Most loops take this many elements at a time: kLanes, unless that is less than what is stored
// together. All coefficient arrays and buffers have room for kLanes.
template <typename T>
constexpr int kBlock = std::max(kLanes, kStoredRegisters<T>* kWidth<Compute<T>>);

// Rows share one load of their columns' coefficients: in the caches these loads would be half of
// all.
constexpr int64_t kSharingRows = 4;

// `block` is the same block of kElements columns in each of `rows` rows.
template <typename T, bool kStream, int kElements, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_block(const Stream& block, int64_t rows, int64_t stride,
                                     const Map& map, int64_t column) {
  constexpr int kN = kWidth<Compute<T>>;
  constexpr int kCount = kStoredRegisters<T> * kN <= kElements ? kStoredRegisters<T> : 1;
  unroll<kElements / (kCount * kN)>([&](auto i) __attribute__((always_inline)) {
    const int64_t lane = i * kCount * kN;
    decltype(coefficients(map, 0)) registers[kCount];
    unroll<kCount>([&](auto j) __attribute__((always_inline)) {
      registers[j] = coefficients(map, column + lane + j * kN);
    });
    for (int64_t row = 0; row < rows; ++row)
      (block + (row * stride + lane)).template apply<kStream>(registers);
  });
}

// The last `rest` < kBlock columns of rows of `length`: the blocks may reach back into columns that
// are done, which are computed again.
template <typename T, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_end(const Stream& stream, int64_t rows, int64_t stride,
                                   int64_t length, int64_t rest, const Map& map) {
  if (rest == 0) return;
  if (rest > kLanes && length >= kBlock<T>) {
    const int64_t i = length - kBlock<T>;
    map_block<T, false, kBlock<T>>(stream + i, rows, stride, map, i);
    return;
  }
  if (rest > kLanes) map_block<T, false, kLanes>(stream, rows, stride, map, 0);
  if (length >= kLanes) {
    const int64_t i = length - kLanes;
    map_block<T, false, kLanes>(stream + i, rows, stride, map, i);
    return;
  }
  for (int64_t row = 0; row < rows; ++row)
    (stream + row * stride)
        .apply_short(
            length, [&](const Stream& buffer) __attribute__((always_inline)) {
              map_block<T, false, kLanes>(buffer, 1, 0, map, 0);
            });
}

template <typename T, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_rows(const Stream& stream, int64_t rows, const Strip& strip,
                                    const Map& map) {
  int64_t i = 0;
  for (; i + kBlock<T> <= strip.length; i += kBlock<T>)
    map_block<T, false, kBlock<T>>(stream + i, rows, strip.stride, map, i);
  map_end<T>(stream, rows, strip.stride, strip.length, strip.length - i, map);
}

// A register is stored at a multiple of its size then, and a block within as few lines as can be.
template <typename T>
constexpr int64_t kBlockBytes = kBlock<T> * sizeof(T) < 64 ? kBlock<T> * sizeof(T) : 64;

// One row of at least kBlock columns, stored at aligned addresses but for its two ends, which are
// stored twice: a store past the caches has to be, an ordinary one that crosses lines costs two.
// What will be read next lies within `reach` elements.
template <typename T, bool kStream, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_row_aligned(const Stream& stream, int64_t length, int64_t reach,
                                           const Map& map) {
  const auto misaligned =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(stream.to()) % kBlockBytes<T>);
  int64_t i = 0;
  if (misaligned != 0) {
    map_block<T, false, kBlock<T>>(stream, 1, 0, map, 0);
    i = (kBlockBytes<T> - misaligned) / static_cast<int64_t>(sizeof(T));
  }
  for (; i + kBlock<T> <= length && i + kElementsAhead<T> < reach; i += kBlock<T>) {
    for (int64_t j = 0; j < kBlock<T>; j += kLine<T>) {
      const Stream later = stream + (i + j + kElementsAhead<T>);
      later.prefetch();
      if (!kStream) later.prefetch_to();
    }
    map_block<T, kStream, kBlock<T>>(stream + i, 1, 0, map, i);
  }
  for (; i + kBlock<T> <= length; i += kBlock<T>)
    map_block<T, kStream, kBlock<T>>(stream + i, 1, 0, map, i);
  map_end<T>(stream, 1, 0, length, length - i, map);
}

// Rows shorter than this have too many ends, unless they are whole cache lines.
constexpr int64_t kLeastStreamedBytes = 8192;

// Shorter rows have too few blocks for alignment to pay.
constexpr int64_t kLeastAligned = 8 * kLanes;

template <typename T>
TORCHBN_ALWAYS_INLINE bool streams(const T* to, const Strip& strip) {
  if (strip.length < kBlock<T>) return false;  // a cache line of doubles is shorter than a block
  const bool lines = reinterpret_cast<uintptr_t>(to) % 64 == 0 && strip.length % kLine<T> == 0 &&
                     (strip.rows == 1 || strip.stride % kLine<T> == 0);
  return lines || strip.length * static_cast<int64_t>(sizeof(T)) >= kLeastStreamedBytes;
}

// After a strip of one row `more` elements follow that will be read next.
template <typename T, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_strip(const Stream& stream, const Strip& strip, const Map& map,
                                     bool past_cache, bool share_coefficients, int64_t more = 0) {
  const auto reach = [&](int64_t row) __attribute__((always_inline)) {
    const int64_t rows = strip.stride == strip.length ? strip.rows - row : 1;
    return rows * strip.length + more;
  };
  if (past_cache && streams(stream.to(), strip)) {
    for (int64_t row = 0; row < strip.rows; ++row)
      map_row_aligned<T, true>(stream + row * strip.stride, strip.length, reach(row), map);
    return;
  }
  int64_t row = 0;
  // From memory single rows, which are one stream, come faster.
  if (share_coefficients && !past_cache)
    for (; row + kSharingRows <= strip.rows; row += kSharingRows)
      map_rows<T>(stream + row * strip.stride, kSharingRows, strip, map);
  for (; row < strip.rows; ++row) {
    const Stream run = stream + row * strip.stride;
    if (strip.length >= kLeastAligned)
      map_row_aligned<T, false>(run, strip.length, reach(row), map);
    else
      map_rows<T>(run, 1, strip, map);
  }
}

// Rows whose coefficients would fill the first-level cache are taken in panels, some rows at a
// time. Elsewhere whole rows are the better streams.
constexpr int64_t kMostColumns = 1536;
template <typename T>
constexpr int64_t kPanelColumns = 2048 / sizeof(T);
constexpr int64_t kPanelRows = 16;

template <typename T, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_columns(const Stream& stream, const Strip& strip, const Map& map,
                                       bool past_cache) {
  constexpr int64_t kColumns = kPanelColumns<T>;
  if (strip.length <= kMostColumns) return map_strip<T>(stream, strip, map, past_cache, true);
  for (int64_t row = 0; row < strip.rows; row += kPanelRows) {
    const int64_t rows = strip.rows - row < kPanelRows ? strip.rows - row : kPanelRows;
    for (int64_t column = 0, width = kColumns; column < strip.length; column += width) {
      if (strip.length - column < 2 * kColumns) width = strip.length - column;
      map_strip<T>(stream + (row * strip.stride + column), {rows, width, strip.stride},
                   map.each([&](const auto* values) { return values + column; }), past_cache, true);
    }
  }
}

// The runs of a row, each with its own map. These are copied: for all the compiler knows, what is
// stored might change them.
template <typename T, typename Stream, typename Map>
TORCHBN_ALWAYS_INLINE void map_runs(const Stream& stream, const Strip& strip, const Map* maps,
                                    bool past_cache) {
  if (strip.runs == 1) {
    const Map map = maps[0];
    map_strip<T>(stream, strip, map, past_cache, false);
    return;
  }
  const Strip run{1, strip.length, strip.stride};
  const bool consecutive = strip.rows == 1 && strip.spacing == strip.length;
  for (int64_t row = 0; row < strip.rows; ++row) {
    for (int64_t i = 0; i < strip.runs; ++i) {
      const Map map = maps[i];
      const int64_t more = consecutive ? (strip.runs - 1 - i) * strip.length : 0;
      map_strip<T>(stream + (row * strip.stride + i * strip.spacing), run, map, past_cache, false,
                   more);
    }
  }
}

template <typename T>
void affine(const T* x, T* y, const Strip& strip, const Affine<Compute<T>>* maps, bool past_cache) {
  map_runs<T>(AffineStream<T>{x, y}, strip, maps, past_cache);
}

template <typename T>
void gradient(const T* dy, const T* x, T* dx, const Strip& strip,
              const GradientCoefficients<Compute<T>>* maps, bool past_cache) {
  map_runs<T>(GradientStream<T>{dy, x, dx}, strip, maps, past_cache);
}

template <typename T>
void column_affine(const T* x, T* y, const Strip& strip, const Affine<const Compute<T>*>& map,
                   bool past_cache) {
  map_columns<T>(AffineStream<T>{x, y}, strip, Affine<const Compute<T>*>(map), past_cache);
}

template <typename T>
void column_gradient(const T* dy, const T* x, T* dx, const Strip& strip,
                     const GradientCoefficients<const Compute<T>*>& map, bool past_cache) {
  map_columns<T>(GradientStream<T>{dy, x, dx}, strip, GradientCoefficients<const Compute<T>*>(map),
                 past_cache);
}

}  // namespace
}  // namespace torchbn::cpu::vec
