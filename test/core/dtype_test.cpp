// The half types' conversions, over every bit pattern.

#include "core/dtype.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include <gtest/gtest.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace torchbn {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// A binary format of 16 bits, described by its widths; values by definition of the format.
template <typename T>
struct Format;
template <>
struct Format<BFloat16> {
  static constexpr int kFraction = 7, kBias = 127;
};
template <>
struct Format<Float16> {
  static constexpr int kFraction = 10, kBias = 15;
};

template <typename T>
double value_of(uint32_t bits) {
  constexpr int kFraction = Format<T>::kFraction;
  constexpr int kBias = Format<T>::kBias;
  const int exponent = static_cast<int>((bits & 0x7fff) >> kFraction);
  const int fraction = static_cast<int>(bits & ((1u << kFraction) - 1));
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 2 * kBias + 1) return fraction != 0 ? kNaN : sign * kInfinity;
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - kBias - kFraction);
  return sign * std::ldexp(fraction + (1 << kFraction), exponent - kBias - kFraction);
}

template <typename T>
class HalfTest : public testing::Test {};
using HalfTypes = testing::Types<BFloat16, Float16>;
struct HalfNames {
  template <typename T>
  static std::string GetName(int) {
    return std::is_same_v<T, BFloat16> ? "BFloat16" : "Float16";
  }
};
TYPED_TEST_SUITE(HalfTest, HalfTypes, HalfNames);

TYPED_TEST(HalfTest, WidensEveryBitPatternExactly) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const double expected = value_of<TypeParam>(bits);
    const float actual = widen(TypeParam{static_cast<uint16_t>(bits)});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(actual)) << std::hex << bits;
    } else {
      ASSERT_EQ(actual, expected) << std::hex << bits;
      ASSERT_EQ(std::signbit(actual), (bits & 0x8000) != 0) << std::hex << bits;
    }
  }
}

#if defined(__SSE2__)
// Subnormal numbers of float16 are normal ones of float: flushing the latter's leaves them alone.
TEST(Float16Test, WidensSubnormalsWhereThoseOfFloatAreFlushed) {
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | _MM_FLUSH_ZERO_ON | 0x0040);  // and denormals are zero
  bool exact = true;
  for (uint16_t bits = 0; bits < 0x0400; ++bits)
    exact = exact && widen(Float16{bits}) == static_cast<float>(bits) * 0x1p-24f;
  _mm_setcsr(mode);
  EXPECT_TRUE(exact);
}
#endif

TYPED_TEST(HalfTest, NarrowUndoesWiden) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const TypeParam back = narrow<TypeParam>(widen(TypeParam{static_cast<uint16_t>(bits)}));
    if (std::isnan(value_of<TypeParam>(bits))) {
      ASSERT_TRUE(std::isnan(value_of<TypeParam>(back.bits))) << std::hex << bits;
    } else {
      ASSERT_EQ(back.bits, bits) << std::hex << bits;
    }
  }
}

// Between every two neighbours: the float just below the middle goes down, the one just above goes
// up, the middle itself to the even one. This takes in subnormals, the step from them to normal
// numbers, and the step from the largest number to infinity.
TYPED_TEST(HalfTest, NarrowRoundsToNearestEven) {
  constexpr uint32_t kInfinityBits = static_cast<uint32_t>(2 * Format<TypeParam>::kBias + 1)
                                     << Format<TypeParam>::kFraction;
  constexpr float kFloatInfinity = std::numeric_limits<float>::infinity();
  for (uint32_t sign : {0u, 0x8000u}) {
    for (uint32_t lower = 0; lower < kInfinityBits; ++lower) {
      const uint32_t upper = lower + 1;
      // Infinity stands where the next number would be.
      const double above = upper == kInfinityBits
                               ? 2 * value_of<TypeParam>(lower) - value_of<TypeParam>(lower - 1)
                               : value_of<TypeParam>(upper);
      const auto middle = static_cast<float>((value_of<TypeParam>(lower) + above) / 2);
      const auto narrowed = [&](float magnitude) {
        return narrow<TypeParam>(sign != 0 ? -magnitude : magnitude).bits ^ sign;
      };
      ASSERT_EQ(narrowed(std::nextafter(middle, 0.0f)), lower) << std::hex << lower;
      ASSERT_EQ(narrowed(middle), lower % 2 == 0 ? lower : upper) << std::hex << lower;
      ASSERT_EQ(narrowed(std::nextafter(middle, kFloatInfinity)), upper) << std::hex << lower;
    }
    EXPECT_EQ(narrow<TypeParam>(sign != 0 ? -kFloatInfinity : kFloatInfinity).bits,
              kInfinityBits | sign);
  }
}

TYPED_TEST(HalfTest, NaNStaysNaNWhateverItsPayload) {
  for (uint32_t payload : {1u, 0x00000fffu, 0x00001000u, 0x0000ffffu, 0x00400000u, 0x007fffffu}) {
    for (uint32_t sign : {0u, 0x80000000u}) {
      const float nan = detail::float_from_bits(sign | 0x7f800000u | payload);
      EXPECT_TRUE(std::isnan(value_of<TypeParam>(narrow<TypeParam>(nan).bits)))
          << std::hex << payload;
    }
  }
}

#if defined(__FLT16_MAX__)
TEST(Conversions, ScalarFloat16AgreesWithTheCompiler) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    const float expected = static_cast<float>(half);
    const float value = widen(Float16{bits});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value));
      continue;
    }
    ASSERT_EQ(value, expected) << i;
    // The value, its neighbours, and the ties between it and the next half.
    for (uint32_t step : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      const float near = detail::float_from_bits(detail::bits_from_float(value) + step);
      if (std::isnan(near)) continue;
      const _Float16 rounded = static_cast<_Float16>(near);
      uint16_t rounded_bits;
      std::memcpy(&rounded_bits, &rounded, 2);
      ASSERT_EQ(narrow<Float16>(near).bits, rounded_bits) << i << " + " << step;
    }
  }
}
#endif

}  // namespace
}  // namespace torchbn
