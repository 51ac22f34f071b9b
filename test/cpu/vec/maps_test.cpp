#include <gtest/gtest.h>

#include <vector>

#include "cpu/reference.h"
#include "cpu/vec/levels.h"

namespace torchbn::test {
namespace {

using cpu::vec::Level;

// Stores past the caches give the same bits at every length and alignment.
template <typename T>
void check_streaming(Level level, DType dtype) {
  const ForcedLevel forced(level);
  const auto& primitives = cpu::vec::table().get<T>();
  using Value = Compute<T>;
  constexpr int64_t kLength = 1100;
  constexpr int64_t kRows = 3;
  Buffer x(dtype, normal(kRows * kLength, 3, 2, 1)), dy(dtype, normal(kRows * kLength, 0, 1, 2));
  const std::vector<Value> coefficients(kLength, static_cast<Value>(1.25));
  const Value* c = coefficients.data();
  for (int64_t offset = 0; offset < 33; offset += 3) {
    for (int64_t length : {int64_t{64}, int64_t{1023}, int64_t{1041}, kLength - 33}) {
      Buffer expected(dtype, kRows * kLength), actual(dtype, kRows * kLength);
      const auto x_at = static_cast<const T*>(x.data());
      const auto dy_at = static_cast<const T*>(dy.data());
      const auto expected_at = static_cast<T*>(expected.data()) + offset;
      const auto actual_at = static_cast<T*>(actual.data()) + offset;
      const cpu::vec::Strip strip{kRows, length, kLength};
      primitives.column_affine(x_at, expected_at, strip, {c, c, c}, false);
      primitives.column_affine(x_at, actual_at, strip, {c, c, c}, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
      const Affine<Value> affine{0.5, 2, 1};
      const GradientCoefficients<Value> gradient{0.5, 2, 1, 3};
      primitives.affine(x_at, expected_at, strip, &affine, false);
      primitives.affine(x_at, actual_at, strip, &affine, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
      primitives.column_gradient(dy_at, x_at, expected_at, strip, {c, c, c, c}, false);
      primitives.column_gradient(dy_at, x_at, actual_at, strip, {c, c, c, c}, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
      primitives.gradient(dy_at, x_at, expected_at, strip, &gradient, false);
      primitives.gradient(dy_at, x_at, actual_at, strip, &gradient, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
    }
  }
}

TEST(Streaming, SameBitsAsOrdinaryStores) {
  for (Level level : levels()) {
    check_streaming<float>(level, DType::kFloat32);
    check_streaming<double>(level, DType::kFloat64);
    check_streaming<BFloat16>(level, DType::kBFloat16);
    check_streaming<Float16>(level, DType::kFloat16);
  }
}

}  // namespace
}  // namespace torchbn::test
