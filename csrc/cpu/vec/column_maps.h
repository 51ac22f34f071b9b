#pragma once

#include "cpu/vec/row_maps.h"

// Maps of columns. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Rows whose coefficients would fill the first-level cache are taken in panels, some rows at a
// time. Elsewhere whole rows are the better streams.
constexpr int64_t kMostColumns = 1536;
constexpr int64_t kPanelRows = 16;

// f(row, rows, column, width)
template <typename T, typename F>
TORCHBN_ALWAYS_INLINE void for_panels(const Strip& strip, const F& f) {
  constexpr int64_t kColumns = kPanelColumns<T>;
  if (strip.length <= kMostColumns) return f(int64_t{0}, strip.rows, int64_t{0}, strip.length);
  for (int64_t row = 0; row < strip.rows; row += kPanelRows) {
    const int64_t rows = lesser(strip.rows - row, kPanelRows);
    for (int64_t column = 0, width = kColumns; column < strip.length; column += width) {
      if (strip.length - column < 2 * kColumns) width = strip.length - column;
      f(row, rows, column, width);
    }
  }
}

// What lies between aligned addresses.
template <typename T>
constexpr int64_t kAlignedBlock = kBlockBytes<T> / sizeof(T);
static_assert(kAlignedBlock<BFloat16> <= kRepeatedColumns &&
              kAlignedBlock<float> <= kRepeatedColumns);

// Whole blocks of [begin, end) of rows of `length` that lie one behind the other. A block may end
// in the next row: behind the last column the coefficients of the first ones follow. What will be
// read soon lies `ahead` elements further on, but before `reach`.
template <typename T, bool kPastCaches, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_blocks(const Tensors& tensors, int64_t begin, int64_t end,
                                      int64_t column, int64_t length, int64_t ahead, int64_t reach,
                                      const Map& map) {
  constexpr int64_t kN = kAlignedBlock<T>;
  for (int64_t i = begin; i + kN <= end; i += kN) {
    if (i + ahead < reach) prefetch_block<T, kPastCaches, kN>(tensors + (i + ahead));
    map_block<T, kPastCaches, kN>(tensors + i, map, column);
    column += kN;
    if (column >= length) column -= length;
  }
}

// Rows that lie one behind the other are one stream of aligned blocks, wherever rows and panels
// begin.
template <typename T, bool kPastCaches, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_table(const Tensors& tensors, const Strip& strip, const Map& map) {
  constexpr int64_t kN = kAlignedBlock<T>;
  const int64_t length = strip.length;
  const int64_t size = strip.rows * length;
  // The first aligned address from an element on, if there is one.
  const auto aligned = [&](int64_t i) __attribute__((always_inline)) {
    i += misaligned_elements<T>(tensors + i);
    return lesser(i, size);
  };
  const auto map_panel = [&](int64_t row, int64_t rows, int64_t column, int64_t width) {
    for (const int64_t last = row + rows; row < last; ++row) {
      const int64_t begin = aligned(row * length + column);
      const int64_t end = aligned(row * length + column + width);
      map_blocks<T, kPastCaches>(tensors, begin, end, begin - row * length, length, length, size,
                                 map);
    }
  };
  map_block<T, false, kN>(tensors, map, 0);
  if (length <= kMostColumns) {
    const int64_t begin = aligned(0);
    const int64_t reach = kPastCaches || length >= kLeastAligned ? size : 0;
    map_blocks<T, kPastCaches>(tensors, begin, size, begin, length, kElementsAhead<T>, reach, map);
  } else {
    for_panels<T>(strip, map_panel);
  }
  map_block<T, false, kN>(tensors + (size - kN), map, length - kN);
}

template <typename T, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_columns(const Tensors& tensors, const Strip& strip, const Map& map,
                                       Origin origin) {
  const bool is_table = strip.stride == strip.length && strip.length >= kBlock<T> && strip.rows > 0;
  if (is_table && origin == Origin::kMemory) return map_table<T, true>(tensors, strip, map);
  if (is_table && !shares_coefficients<T>(origin)) return map_table<T, false>(tensors, strip, map);
  const auto map_panel = [&](int64_t row, int64_t rows, int64_t column, int64_t width) {
    map_strip<T>(tensors + (row * strip.stride + column), {rows, width, strip.stride},
                 map.each([&](const auto* values) { return values + column; }), origin);
  };
  for_panels<T>(strip, map_panel);
}

}  // namespace
}  // namespace torchbn::cpu::vec
