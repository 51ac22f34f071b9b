#pragma once

#include <type_traits>

#include "core/affine.h"
#include "core/gradient.h"
#include "cpu/vec/primitives.h"
#include "cpu/vec/simd.h"

// What the element-wise loops read and write, and with which coefficients. Internal linkage: see
// simd.h. core's formulas are called with a register as their number type: an instance of its own
// for each register width.
namespace torchbn::cpu::vec {
namespace {

// A register of each coefficient: shared by all lanes, or from an array.

template <template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE Map<Register<V>> coefficients(const Map<V>& map, int64_t) {
  return map.each([](V value) __attribute__((always_inline)) { return broadcast(value); });
}
template <template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE Map<Register<V>> coefficients(const Map<const V*>& map, int64_t i) {
  return map.each([&](const V* values)
                      __attribute__((always_inline)) { return load<kWidth<V>>(values + i); });
}

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

template <template <typename> typename Map, typename V>
TORCHBN_ALWAYS_INLINE Map<Register<V>> coefficients(const Seam<Map, V>& seam, int64_t i) {
  using Bits = std::conditional_t<sizeof(V) == 4, int32_t, int64_t>;
  const auto before =
      load_bits<Register<Bits>>(kLaneNumbers<Bits>) < broadcast(static_cast<Bits>(seam.at - i));
  V behind[sizeof(Map<V>) / sizeof(V)];
  V* next = behind;
  seam.behind.each([&](V value) __attribute__((always_inline)) { return *next++ = value; });
  next = behind;
  return seam.before.each([&](V value) __attribute__((always_inline)) {
    return before ? broadcast(value) : broadcast(*next++);
  });
}

// What is read and written.

template <typename T>
struct AffineStream {
  const T* x;
  T* y;

  TORCHBN_ALWAYS_INLINE AffineStream operator+(int64_t offset) const {
    return {x + offset, y + offset};
  }
  TORCHBN_ALWAYS_INLINE T* to() const { return y; }
  TORCHBN_ALWAYS_INLINE void prefetch() const { __builtin_prefetch(x, 0, 3); }
  TORCHBN_ALWAYS_INLINE void prefetch_to() const { __builtin_prefetch(y, 1, 3); }
  // One map for each of the registers.
  template <bool kStream, typename Map, int kCount>
  TORCHBN_ALWAYS_INLINE void apply(const Map (&maps)[kCount]) const {
    constexpr int kN = kWidth<Compute<T>>;
    Register<Compute<T>> values[kCount];
    unroll<kCount>([&](auto i) __attribute__((always_inline)) {
      values[i] = maps[i](load<kN>(x + i * kN));
    });
    store<kStream>(y, values);
  }
  template <typename Apply>
  TORCHBN_ALWAYS_INLINE void apply_short(int64_t length, const Apply& apply) const {
    T buffer[2][kLanes] = {};
    for (int64_t i = 0; i < length; ++i) buffer[0][i] = x[i];
    apply(AffineStream{buffer[0], buffer[1]});
    for (int64_t i = 0; i < length; ++i) y[i] = buffer[1][i];
  }
};

template <typename T>
struct GradientStream {
  const T* dy;
  const T* x;
  T* dx;

  TORCHBN_ALWAYS_INLINE GradientStream operator+(int64_t offset) const {
    return {dy + offset, x + offset, dx + offset};
  }
  TORCHBN_ALWAYS_INLINE T* to() const { return dx; }
  TORCHBN_ALWAYS_INLINE void prefetch() const {
    __builtin_prefetch(dy, 0, 3);
    __builtin_prefetch(x, 0, 3);
  }
  TORCHBN_ALWAYS_INLINE void prefetch_to() const { __builtin_prefetch(dx, 1, 3); }
  template <bool kStream, typename Map, int kCount>
  TORCHBN_ALWAYS_INLINE void apply(const Map (&maps)[kCount]) const {
    constexpr int kN = kWidth<Compute<T>>;
    Register<Compute<T>> values[kCount];
    unroll<kCount>([&](auto i) __attribute__((always_inline)) {
      values[i] = maps[i](load<kN>(dy + i * kN), load<kN>(x + i * kN));
    });
    store<kStream>(dx, values);
  }
  template <typename Apply>
  TORCHBN_ALWAYS_INLINE void apply_short(int64_t length, const Apply& apply) const {
    T buffer[3][kLanes] = {};
    for (int64_t i = 0; i < length; ++i) {
      buffer[0][i] = dy[i];
      buffer[1][i] = x[i];
    }
    apply(GradientStream{buffer[0], buffer[1], buffer[2]});
    for (int64_t i = 0; i < length; ++i) dx[i] = buffer[2][i];
  }
};

}  // namespace
}  // namespace torchbn::cpu::vec
