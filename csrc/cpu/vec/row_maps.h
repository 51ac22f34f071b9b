#pragma once

#include <algorithm>

#include "cpu/vec/map_tensors.h"

// The element-wise loops over rows. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

template <typename T>
constexpr int kStoredTogether = kStoredRegisters<T>* kWidth<Compute<T>>;

// Most loops take this many elements at a time: kLanes, unless that is less than what is stored
// together. All coefficient arrays and buffers have room for kLanes.
template <typename T>
constexpr int kBlock = kLanes > kStoredTogether<T> ? kLanes : kStoredTogether<T>;

// Rows of half types share one load of their columns' coefficients: in the caches these loads would
// be two thirds of all. More rows share what has to be sorted for pairs. Rows of wider types, and
// all from memory, are better streams alone, prefetched ahead.
template <typename T>
constexpr int64_t kSharingRows = kLoadsPairs<T> ? 8 : 4;
template <typename T>
TORCHBN_ALWAYS_INLINE bool shares_coefficients(Origin origin) {
  return sizeof(T) == 2 && origin == Origin::kCaches;
}

// `block` is the same block of kElements columns in each of kRows rows.
template <typename T, bool kPastCaches, int kElements, int64_t kRows, typename Tensors,
          typename Map>
TORCHBN_ALWAYS_INLINE void map_block(const Tensors& block, int64_t stride, const Map& map,
                                     int64_t column) {
  constexpr int kN = kWidth<Compute<T>>;
  constexpr int kCount = kStoredRegisters<T> * kN <= kElements ? kStoredRegisters<T> : 1;
  // Coefficients from arrays have to be sorted for pairs.
  constexpr bool kSortingPays = !kFromArrays<Map> || kRows >= kSharingRows<T>;
  constexpr bool kPairs = kCount == 2 && kLoadsPairs<T> && kSortingPays;
  unroll<kElements / (kCount * kN)>([&](auto i) __attribute__((always_inline)) {
    const int64_t lane = i * kCount * kN;
    decltype(coefficients<kPairs, 0>(map, 0)) registers[kCount];
    unroll<kCount>([&](auto j) __attribute__((always_inline)) {
      registers[j] = coefficients<kPairs, j>(map, column + lane);
    });
    for (int64_t row = 0; row < kRows; ++row)
      (block + (row * stride + lane)).template apply<kPairs, kPastCaches>(registers);
  });
}

// The same for one row.
template <typename T, bool kPastCaches, int kElements, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_block(const Tensors& block, const Map& map, int64_t column) {
  map_block<T, kPastCaches, kElements, 1>(block, 0, map, column);
}

// The last `rest` < kBlock columns of rows of `length`: the blocks may reach back into columns that
// are done, which are computed again.
template <typename T, int64_t kRows, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_end(const Tensors& tensors, int64_t stride, int64_t length,
                                   int64_t rest, const Map& map) {
  if (rest == 0) return;
  if (rest > kLanes && length >= kBlock<T>) {
    const int64_t i = length - kBlock<T>;
    map_block<T, false, kBlock<T>, kRows>(tensors + i, stride, map, i);
    return;
  }
  if (rest > kLanes) map_block<T, false, kLanes, kRows>(tensors, stride, map, 0);
  if (length >= kLanes) {
    const int64_t i = length - kLanes;
    map_block<T, false, kLanes, kRows>(tensors + i, stride, map, i);
    return;
  }
  for (int64_t row = 0; row < kRows; ++row)
    (tensors + row * stride)
        .apply_short(
            length, [&](const Tensors& buffer) __attribute__((always_inline)) {
              map_block<T, false, kLanes>(buffer, map, 0);
            });
}

template <typename T, int64_t kRows, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_rows(const Tensors& tensors, const Strip& strip, const Map& map) {
  int64_t i = 0;
  for (; i + kBlock<T> <= strip.length; i += kBlock<T>)
    map_block<T, false, kBlock<T>, kRows>(tensors + i, strip.stride, map, i);
  map_end<T, kRows>(tensors, strip.stride, strip.length, strip.length - i, map);
}

// A register is stored at a multiple of its size then, and a block within as few lines as can be.
template <typename T>
constexpr int64_t kBlockBytes = kBlock<T> * sizeof(T) < 64 ? kBlock<T> * sizeof(T) : 64;

// Elements before the first aligned address.
template <typename T, typename Tensors>
TORCHBN_ALWAYS_INLINE int64_t misaligned_elements(const Tensors& tensors) {
  const auto to = static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensors.to()));
  return (-to & (kBlockBytes<T> - 1)) / static_cast<int64_t>(sizeof(T));
}

// Of a block of kElements: what will be read, and where an ordinary store goes.
template <typename T, bool kPastCaches, int kElements = kBlock<T>, typename Tensors>
TORCHBN_ALWAYS_INLINE void prefetch_block(const Tensors& block) {
  for (int64_t i = 0; i < kElements; i += kLine<T>) {
    (block + i).prefetch();
    if (!kPastCaches) (block + i).prefetch_to();
  }
}

// One row of at least kBlock columns, stored at aligned addresses but for its two ends, which are
// stored twice: a store past the caches has to be, an ordinary one that crosses lines costs two.
// What will be read soon lies `ahead` elements further on, but before `reach`.
template <typename T, bool kPastCaches, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_row_aligned(const Tensors& tensors, int64_t length, int64_t ahead,
                                           int64_t reach, const Map& map) {
  int64_t i = misaligned_elements<T>(tensors);
  if (i != 0) map_block<T, false, kBlock<T>>(tensors, map, 0);
  for (; i + kBlock<T> <= length && i + ahead < reach; i += kBlock<T>) {
    prefetch_block<T, kPastCaches>(tensors + (i + ahead));
    map_block<T, kPastCaches, kBlock<T>>(tensors + i, map, i);
  }
  for (; i + kBlock<T> <= length; i += kBlock<T>)
    map_block<T, kPastCaches, kBlock<T>>(tensors + i, map, i);
  map_end<T, 1>(tensors, 0, length, length - i, map);
}

// Columns that are taken together where the coefficients of more would not stay in the first-level
// cache.
template <typename T>
constexpr int64_t kPanelColumns = 2048 / sizeof(T);

// Shorter rows have too few blocks for alignment to pay.
constexpr int64_t kLeastAligned = 8 * kLanes;

// Shorter rows have too many ends for stores past the caches, unless they are whole cache lines.
template <typename T>
constexpr int64_t kLeastPastCaches = 8192 / sizeof(T);

template <typename T>
TORCHBN_ALWAYS_INLINE bool passes_caches(const T* to, const Strip& strip) {
  if (strip.length < kBlock<T>) return false;  // a cache line of doubles is shorter than a block
  const bool lines = reinterpret_cast<uintptr_t>(to) % 64 == 0 && strip.length % kLine<T> == 0 &&
                     (strip.rows == 1 || strip.stride % kLine<T> == 0);
  return lines || strip.length >= kLeastPastCaches<T>;
}

template <typename T, typename Tensors, typename Map>
TORCHBN_ALWAYS_INLINE void map_strip(const Tensors& tensors, const Strip& strip, const Map& map,
                                     Origin origin) {
  // Behind a short row the next one is read, wherever it lies.
  const bool hops = strip.stride != strip.length && strip.length <= kElementsAhead<T>;
  const int64_t ahead = hops ? strip.stride : kElementsAhead<T>;
  const auto reach = [&](int64_t row) __attribute__((always_inline)) {
    return hops || strip.stride == strip.length ? (strip.rows - row) * strip.stride : strip.length;
  };
  if (origin == Origin::kMemory && passes_caches(tensors.to(), strip)) {
    for (int64_t row = 0; row < strip.rows; ++row)
      map_row_aligned<T, true>(tensors + row * strip.stride, strip.length, ahead, reach(row), map);
    return;
  }
  int64_t row = 0;
  if (kFromArrays<Map> && shares_coefficients<T>(origin))
    for (; row + kSharingRows<T> <= strip.rows; row += kSharingRows<T>)
      map_rows<T, kSharingRows<T>>(tensors + row * strip.stride, strip, map);
  for (; row < strip.rows; ++row) {
    const Tensors run = tensors + row * strip.stride;
    if (strip.length >= kLeastAligned)
      map_row_aligned<T, false>(run, strip.length, ahead, reach(row), map);
    else
      map_rows<T, 1>(run, strip, map);
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec
