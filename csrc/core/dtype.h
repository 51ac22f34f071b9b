#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/host_device.h"

namespace torchbn {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// The two half types as they lie in memory. Arithmetic happens in float.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// The type in which one element of T is transformed. Sums over elements are kept in double.
template <typename T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename T>
using Compute = typename ComputeType<T>::type;

TORCHBN_HOST_DEVICE size_t size_of(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// f(T{}) with T the type that `dtype` names.
template <typename F>
TORCHBN_HOST auto with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat16:
      break;
  }
  return f(Float16{});
}

namespace detail {

TORCHBN_HOST_DEVICE float float_from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

TORCHBN_HOST_DEVICE uint32_t bits_from_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

}  // namespace detail

TORCHBN_HOST_DEVICE float widen(float value) {
  return value;
}
TORCHBN_HOST_DEVICE double widen(double value) {
  return value;
}

TORCHBN_HOST_DEVICE float widen(BFloat16 value) {
  return detail::float_from_bits(uint32_t{value.bits} << 16);
}

TORCHBN_HOST_DEVICE float widen(Float16 value) {
  const uint32_t sign = (uint32_t{value.bits} & 0x8000u) << 16;
  const uint32_t magnitude = uint32_t{value.bits} & 0x7fffu;
  // Infinity and NaN have an all-ones exponent in both formats; the payload moves along.
  if (magnitude >= 0x7c00u) return detail::float_from_bits(sign | 0x70000000u | magnitude << 13);
  // The exponents' biases differ by 112.
  if (magnitude >= 0x0400u)
    return detail::float_from_bits(sign | (0x38000000u + (magnitude << 13)));
  // A subnormal, m * 2^-24, is what 0.5 + m * 2^-24 has more than 0.5: no operand is subnormal in
  // float, where a thread may have asked for zeros in their place.
  const float subnormal = detail::float_from_bits(0x3f000000u | magnitude) - 0.5f;
  return detail::float_from_bits(sign | detail::bits_from_float(subnormal));
}

// Rounds to nearest, ties to even; keeps subnormals; NaN stays NaN.
template <typename T>
TORCHBN_HOST_DEVICE T narrow(float value);

template <>
TORCHBN_HOST_DEVICE float narrow<float>(float value) {
  return value;
}

template <>
TORCHBN_HOST_DEVICE BFloat16 narrow<BFloat16>(float value) {
  const uint32_t bits = detail::bits_from_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
TORCHBN_HOST_DEVICE Float16 narrow<Float16>(float value) {
  const uint32_t bits = detail::bits_from_float(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | ((magnitude >> 13) & 0x03ffu);
  } else if (magnitude >= 0x477ff000u) {  // 65520 and above round to infinity
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Below 2^-14 the result is subnormal: adding 0.5 leaves the significand, rounded by the
    // hardware at 2^-24, in the low bits of the sum.
    half = detail::bits_from_float(detail::float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

// Half types are rounded twice, first to float: that differs only where float's rounding makes a
// tie of what was none.
template <typename T>
TORCHBN_HOST_DEVICE T round_to(double value) {
  return narrow<T>(static_cast<float>(value));
}

template <>
TORCHBN_HOST_DEVICE double round_to<double>(double value) {
  return value;
}

}  // namespace torchbn
