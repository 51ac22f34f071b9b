#pragma once

#include "cpu/vec/row_maps.h"

// Maps of runs. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// The map of one run; a copy: for all the compiler knows, what is stored might change the arrays.
template <template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE Map<V> map_of(const Map<const V*>& maps, int64_t run) {
  return maps.each([&](const V* values) __attribute__((always_inline)) { return values[run]; });
}

// Neighbouring runs of at least kBlock elements as one row: blocks are aligned wherever runs begin,
// so a block may lie across a seam.
template <typename T, bool kPastCaches, typename Tensors, template <typename> typename Map,
          typename V>
TORCHBN_ALWAYS_INLINE void map_neighbours(const Tensors& tensors, int64_t length, int64_t runs,
                                          const Map<const V*>& maps) {
  const int64_t end = runs * length;
  Map<V> map = map_of(maps, 0);
  int64_t i = misaligned_elements<T>(tensors);
  if (i != 0) map_block<T, false, kBlock<T>>(tensors, map, 0);
  const auto prefetch = [&]() __attribute__((always_inline)) {
    if (i + kElementsAhead<T> < end)
      prefetch_block<T, kPastCaches>(tensors + (i + kElementsAhead<T>));
  };
  for (int64_t run = 0;;) {
    const int64_t seam = (run + 1) * length;
    for (; i + kBlock<T> <= seam; i += kBlock<T>) {
      prefetch();
      map_block<T, kPastCaches, kBlock<T>>(tensors + i, map, 0);
    }
    if (++run == runs) break;
    const Map<V> next = map_of(maps, run);
    if (i < seam) {
      prefetch();
      map_block<T, kPastCaches, kBlock<T>>(tensors + i, Seam<Map, V>{map, next, seam - i}, 0);
      i += kBlock<T>;
    }
    map = next;
  }
  if (i < end) map_block<T, false, kBlock<T>>(tensors + (end - kBlock<T>), map, 0);
}

// Rows that are enough to pay for laying out coefficients once for all of them.
constexpr int64_t kLeastRowsOfColumns = 16;

// Are neighbouring runs better taken as columns of a table? Those shorter than a block are, and
// enough narrow rows that share coefficients.
template <typename T>
TORCHBN_ALWAYS_INLINE bool are_columns(const Strip& strip, Origin origin) {
  if (strip.length < kBlock<T>) return true;
  return shares_coefficients<T>(origin) && strip.rows >= kLeastRowsOfColumns &&
         strip.runs * strip.length <= kPanelColumns<T> / 2;
}

// The coefficients are laid out once for all rows.
template <typename T, typename Tensors, template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE void map_neighbours_as_columns(const Tensors& tensors, const Strip& strip,
                                                     const Map<const V*>& maps, Origin origin) {
  constexpr int64_t kPitch = kPanelColumns<T> + kBlock<T>;
  alignas(64) V columns[sizeof(Map<V>) / sizeof(V)][kPitch];
  const int64_t together = kPanelColumns<T> / strip.length;
  for (int64_t run = 0; run < strip.runs; run += together) {
    const int64_t runs = lesser(strip.runs - run, together);
    for (int64_t i = 0; i < runs; ++i) {
      V* to = columns[0] + i * strip.length;
      map_of(maps, run + i).each([&](V value) __attribute__((always_inline)) {
        spread(value, strip.length, to);
        to += kPitch;
        return value;
      });
    }
    const V* from = columns[0];
    const auto table = maps.each([&](const V*) __attribute__((always_inline)) {
      const V* const values = from;
      from += kPitch;
      return values;
    });
    map_strip<T>(tensors + run * strip.length, {strip.rows, runs * strip.length, strip.stride},
                 table, origin);
  }
}

template <typename T, typename Tensors, typename Maps>
TORCHBN_ALWAYS_INLINE void map_runs(const Tensors& tensors, const Strip& strip, const Maps& maps,
                                    Origin origin) {
  if (strip.runs == 1) return map_strip<T>(tensors, strip, map_of(maps, 0), origin);
  const bool neighbours = strip.spacing == strip.length;
  if (neighbours && are_columns<T>(strip, origin))
    return map_neighbours_as_columns<T>(tensors, strip, maps, origin);
  const bool past_caches =
      origin == Origin::kMemory && strip.runs * strip.length >= kLeastPastCaches<T>;
  for (int64_t row = 0; row < strip.rows; ++row) {
    const Tensors first = tensors + row * strip.stride;
    if (neighbours && past_caches)
      map_neighbours<T, true>(first, strip.length, strip.runs, maps);
    else if (neighbours)
      map_neighbours<T, false>(first, strip.length, strip.runs, maps);
    else
      for (int64_t i = 0; i < strip.runs; ++i)
        map_strip<T>(first + i * strip.spacing, {1, strip.length, strip.stride}, map_of(maps, i),
                     origin);
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
