#pragma once

#include "cpu/vec/lanes.h"

// What sums are held in. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// The upper half of the lanes onto the lower one, again and again.
template <int kCount>
TORCHBN_ALWAYS_INLINE double fold(Vector<double, kCount> lanes) {
  if constexpr (kCount == 2) {
    return lanes[0] + lanes[1];
  } else {
    constexpr auto kHalf = std::make_integer_sequence<int, kCount / 2>{};
    return fold<kCount / 2>(shuffle_half<0>(lanes, kHalf) + shuffle_half<1>(lanes, kHalf));
  }
}
template <int kCount>
TORCHBN_ALWAYS_INLINE double fold(const Register<double> (&lanes)[kCount]) {
  if constexpr (kCount == 1) {
    return fold<kDoubles>(lanes[0]);
  } else {
    Register<double> half[kCount / 2];
    unroll<kCount / 2>([&](auto i) __attribute__((always_inline)) {
      half[i] = lanes[i] + lanes[i + kCount / 2];
    });
    return fold(half);
  }
}

// The two sums of kLanes lanes in registers, as add_moments and add_gradient define them.
struct Accumulator {
  using MaskBits = int64_t;

  Register<double> first[kDoubleRegisters];
  Register<double> second[kDoubleRegisters];

  TORCHBN_ALWAYS_INLINE Accumulator fresh() const { return {}; }

  TORCHBN_ALWAYS_INLINE void load(const double* from_first, const double* from_second) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] = load_bits<Register<double>>(from_first + i * kDoubles);
      second[i] = load_bits<Register<double>>(from_second + i * kDoubles);
    });
  }

  TORCHBN_ALWAYS_INLINE void store(double* to_first, double* to_second) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(to_first + i * kDoubles, first[i]);
      store_bits(to_second + i * kDoubles, second[i]);
    });
  }

  TORCHBN_ALWAYS_INLINE void operator+=(const Accumulator& other) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] += other.first[i];
      second[i] += other.second[i];
    });
  }

  TORCHBN_ALWAYS_INLINE void add_all_lanes(double& to_first, double& to_second) const {
    to_first += fold(first);
    to_second += fold(second);
  }

  // Leaves the lanes of the mask, zeros elsewhere.
  TORCHBN_ALWAYS_INLINE void keep_lanes(const int64_t* mask) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] = keep(first[i], mask + i * kDoubles);
      second[i] = keep(second[i], mask + i * kDoubles);
    });
  }
};

// The same in float, about a centre for each lane; in the order in which the values are loaded.
struct FloatAccumulator {
  using MaskBits = int32_t;

  FloatLanes center;
  FloatLanes first;
  FloatLanes second;

  TORCHBN_ALWAYS_INLINE void load(const float* from_center, const float* from_first,
                                  const float* from_second) {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      center[i] = load_bits<Register<float>>(from_center + i * kFloats);
      first[i] = load_bits<Register<float>>(from_first + i * kFloats);
      second[i] = load_bits<Register<float>>(from_second + i * kFloats);
    });
  }

  TORCHBN_ALWAYS_INLINE FloatAccumulator fresh() const { return {center, {}, {}}; }

  TORCHBN_ALWAYS_INLINE void operator+=(const FloatAccumulator& other) {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] += other.first[i];
      second[i] += other.second[i];
    });
  }

  TORCHBN_ALWAYS_INLINE void store_centers(float* to) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(to + i * kFloats, center[i]);
    });
  }

  TORCHBN_ALWAYS_INLINE void store(float* to_first, float* to_second) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(to_first + i * kFloats, first[i]);
      store_bits(to_second + i * kFloats, second[i]);
    });
  }
};

// A pivot shared by all lanes, and one per lane. The high parts are those that float can hold.
struct SharedPivot {
  Register<double> value;

  TORCHBN_ALWAYS_INLINE explicit SharedPivot(double pivot) : value(broadcast(pivot)) {}
  TORCHBN_ALWAYS_INLINE Register<double> operator[](int) const { return value; }
  TORCHBN_ALWAYS_INLINE Register<float> high_part(int) const {
    return broadcast(static_cast<float>(value[0]));
  }
};
struct LanePivots {
  Register<double> value[kDoubleRegisters];

  TORCHBN_ALWAYS_INLINE explicit LanePivots(const double* pivots) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      value[i] = load_bits<Register<double>>(pivots + i * kDoubles);
    });
  }
  TORCHBN_ALWAYS_INLINE Register<double> operator[](int i) const { return value[i]; }
  TORCHBN_ALWAYS_INLINE Register<float> high_part(int i) const {
    return narrow_to_float(value[2 * i], value[2 * i + 1]);
  }
};

}  // namespace
}  // namespace torchbn::cpu::vec
