#pragma once

#include <type_traits>

#include "core/affine.h"
#include "core/gradient.h"
#include "cpu/vec/elements.h"
#include "cpu/vec/primitives.h"

// What the element-wise loops read and write, and with which coefficients. Internal linkage: see
// simd.h. core's formulas are called with a register as their number type: an instance of its own
// for each register width.
namespace torchbn::cpu::vec {
namespace {

// A register of each coefficient, shared by all columns or from an array: those of register `kAt`
// of a block that begins at `column`. In a block of pairs, two registers hold every other column.

// A Map<Register<V>>, which is not said of the first: there is none where it is not the one meant.
template <bool kPairs, int kAt, template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE auto coefficients(const Map<V>& map, int64_t) {
  return map.each([](V value) __attribute__((always_inline)) { return broadcast(value); });
}
template <bool kPairs, int kAt, template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE Map<Register<V>> coefficients(const Map<const V*>& map, int64_t column) {
  constexpr int kN = kWidth<V>;
  return map.each([&](const V* values) __attribute__((always_inline)) {
    const V* const from = values + column;
    if constexpr (kPairs)
      return load_every_other<kAt>(from);
    else
      return load<kN>(from + kAt * kN);
  });
}

template <typename Map>
constexpr bool kFromArrays = false;
template <template <typename> typename Map, typename V>
constexpr bool kFromArrays<Map<const V*>> = true;

// Two maps of neighbouring runs: lanes before `at` are those of the first run.
template <template <typename> typename Map, typename V>
struct Seam {
  Map<V> before;
  Map<V> behind;
  int64_t at;
};

template <typename Bits>
alignas(64) constexpr Bits kLaneNumbers[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                   8, 9, 10, 11, 12, 13, 14, 15};

template <bool kPairs, int kAt, template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE Map<Register<V>> coefficients(const Seam<Map, V>& seam, int64_t column) {
  using Bits = std::conditional_t<sizeof(V) == 4, int32_t, int64_t>;
  constexpr int kFirst = kPairs ? kAt : kAt * kWidth<V>;
  constexpr int kStep = kPairs ? 2 : 1;
  const auto before = kStep * load_bits<Register<Bits>>(kLaneNumbers<Bits>) <
                      broadcast(static_cast<Bits>(seam.at - column - kFirst));
  return seam.before.each(
      seam.behind, [&](V left, V right) __attribute__((always_inline)) {
        return before ? broadcast(left) : broadcast(right);
      });
}

// What is read and written.

template <bool kPairs, typename T, int kCount>
TORCHBN_ALWAYS_INLINE void load_block(const T* from, Register<Compute<T>> (&values)[kCount]) {
  if constexpr (kPairs) {
    load_pairs(from, values[0], values[1]);
  } else {
    unroll<kCount>([&](auto i) __attribute__((always_inline)) {
      values[i] = load<kWidth<Compute<T>>>(from + i * kWidth<Compute<T>>);
    });
  }
}

template <bool kPairs, bool kPastCaches, typename T, int kCount>
TORCHBN_ALWAYS_INLINE void store_block(T* to, const Register<Compute<T>> (&values)[kCount]) {
  if constexpr (kPairs)
    store_pairs<kPastCaches>(to, values);
  else
    store<kPastCaches>(to, values);
}

template <typename T>
struct AffineTensors {
  const T* x;
  T* y;

  TORCHBN_ALWAYS_INLINE AffineTensors operator+(int64_t offset) const {
    return {x + offset, y + offset};
  }
  TORCHBN_ALWAYS_INLINE T* to() const { return y; }
  TORCHBN_ALWAYS_INLINE void prefetch() const { __builtin_prefetch(x, 0, 3); }
  TORCHBN_ALWAYS_INLINE void prefetch_to() const { __builtin_prefetch(y, 1, 3); }
  // One map for each of the registers.
  template <bool kPairs, bool kPastCaches, typename Map, int kCount>
  TORCHBN_ALWAYS_INLINE void apply(const Map (&maps)[kCount]) const {
    Register<Compute<T>> values[kCount];
    load_block<kPairs>(x, values);
    unroll<kCount>([&](auto i) __attribute__((always_inline)) { values[i] = maps[i](values[i]); });
    store_block<kPairs, kPastCaches>(y, values);
  }
  template <typename Apply>
  TORCHBN_ALWAYS_INLINE void apply_short(int64_t length, const Apply& apply) const {
    T buffer[2][kLanes] = {};
    for (int64_t i = 0; i < length; ++i) buffer[0][i] = x[i];
    apply(AffineTensors{buffer[0], buffer[1]});
    for (int64_t i = 0; i < length; ++i) y[i] = buffer[1][i];
  }
};

template <typename T>
struct GradientTensors {
  const T* dy;
  const T* x;
  T* dx;

  TORCHBN_ALWAYS_INLINE GradientTensors operator+(int64_t offset) const {
    return {dy + offset, x + offset, dx + offset};
  }
  TORCHBN_ALWAYS_INLINE T* to() const { return dx; }
  TORCHBN_ALWAYS_INLINE void prefetch() const {
    __builtin_prefetch(dy, 0, 3);
    __builtin_prefetch(x, 0, 3);
  }
  TORCHBN_ALWAYS_INLINE void prefetch_to() const { __builtin_prefetch(dx, 1, 3); }
  template <bool kPairs, bool kPastCaches, typename Map, int kCount>
  TORCHBN_ALWAYS_INLINE void apply(const Map (&maps)[kCount]) const {
    Register<Compute<T>> grads[kCount], values[kCount];
    load_block<kPairs>(dy, grads);
    load_block<kPairs>(x, values);
    unroll<kCount>([&](auto i) __attribute__((always_inline)) {
      values[i] = maps[i](grads[i], values[i]);
    });
    store_block<kPairs, kPastCaches>(dx, values);
  }
  template <typename Apply>
  TORCHBN_ALWAYS_INLINE void apply_short(int64_t length, const Apply& apply) const {
    T buffer[3][kLanes] = {};
    for (int64_t i = 0; i < length; ++i) {
      buffer[0][i] = dy[i];
      buffer[1][i] = x[i];
    }
    apply(GradientTensors{buffer[0], buffer[1], buffer[2]});
    for (int64_t i = 0; i < length; ++i) dx[i] = buffer[2][i];
  }
};

}  // namespace
}  // namespace torchbn::cpu::vec
