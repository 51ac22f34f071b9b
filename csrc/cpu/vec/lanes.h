#pragma once

#include "cpu/vec/elements.h"
#include "cpu/vec/primitives.h"

// The values of kLanes lanes in registers. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

constexpr int kDoubles = kWidth<double>;
constexpr int kDoubleRegisters = kLanes / kDoubles;
constexpr int kFloats = kWidth<float>;
constexpr int kFloatRegisters = kLanes / kFloats;

// kMask + n keeps the last n of kLanes lanes, kMask + 2 * kLanes - n the first n. An element of it
// is as wide as the lanes' values.
template <typename Bits>
alignas(64) constexpr Bits kMask[3 * kLanes] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,   //
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

template <typename V, typename Bits>
TORCHBN_ALWAYS_INLINE V keep(V value, const Bits* mask) {
  return bit_cast<V>(bit_cast<Register<Bits>>(value) & load_bits<Register<Bits>>(mask));
}

// In float.
struct FloatLanes {
  Register<float> registers[kFloatRegisters];

  TORCHBN_ALWAYS_INLINE Register<float>& operator[](int i) { return registers[i]; }
  TORCHBN_ALWAYS_INLINE const Register<float>& operator[](int i) const { return registers[i]; }
};

// Of bfloat16 each two registers are loaded as a pair, which takes half the instructions: the even
// lanes of both lie in one, the odd lanes in the other. What is computed lane by lane may stay so.
template <typename T>
constexpr bool kLoadsPairedLanes = kFloatRegisters > 1 && kLoadsPairs<T>;

template <typename T>
TORCHBN_ALWAYS_INLINE FloatLanes load_lanes(const T* from) {
  FloatLanes lanes;
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    if constexpr (!kLoadsPairedLanes<T>)
      lanes[i] = load<kFloats>(from + i * kFloats);
    else if constexpr (i % 2 == 0)
      load_pairs(from + i * kFloats, lanes[i], lanes[i + 1]);
  });
  return lanes;
}

// From the order of lanes to the one in which they are loaded, and back.
template <typename T, typename V>
TORCHBN_ALWAYS_INLINE void sort_as_loaded(V (&lanes)[kFloatRegisters]) {
  if constexpr (kLoadsPairedLanes<T>) {
    unroll<kFloatRegisters / 2>([&](auto i) __attribute__((always_inline)) {
      const V first = lanes[2 * i], second = lanes[2 * i + 1];
      lanes[2 * i] = every_other<0>(first, second);
      lanes[2 * i + 1] = every_other<1>(first, second);
    });
  }
}
template <typename T>
TORCHBN_ALWAYS_INLINE FloatLanes in_order(FloatLanes lanes) {
  if constexpr (kLoadsPairedLanes<T>) {
    unroll<kFloatRegisters / 2>([&](auto i) __attribute__((always_inline)) {
      const Register<float> even = lanes[2 * i], odd = lanes[2 * i + 1];
      lanes[2 * i] = alternate<0>(even, odd);
      lanes[2 * i + 1] = alternate<1>(even, odd);
    });
  }
  return lanes;
}

// As keep() does, of lanes as they are loaded.
template <typename T>
TORCHBN_ALWAYS_INLINE FloatLanes keep_loaded(FloatLanes lanes, const int32_t* mask) {
  Register<int32_t> bits[kFloatRegisters];
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    bits[i] = load_bits<Register<int32_t>>(mask + i * kFloats);
  });
  sort_as_loaded<T>(bits);
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    lanes[i] = bit_cast<Register<float>>(bit_cast<Register<int32_t>>(lanes[i]) & bits[i]);
  });
  return lanes;
}

}  // namespace
}  // namespace torchbn::cpu::vec
