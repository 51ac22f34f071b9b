// Half types through the vector loops.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cpu/vec/levels.h"

namespace torchbn::test {
namespace {

using cpu::vec::Level;

// Every bit pattern of a half type through the vector loops of every level, against core's scalar
// conversions and formula.
template <typename T>
void check_conversions(Level level) {
  const ForcedLevel forced(level);
  std::vector<T> x(65536), y(65536);
  for (int i = 0; i < 65536; ++i) x[i].bits = static_cast<uint16_t>(i);
  for (const Affine<float>& map :
       {Affine<float>{0, 1, 0}, {0.3f, 1.7f, 0.01f}, {0, 1e-6f, 0}, {0, 0x1.003p-3f, 0}}) {
    cpu::vec::primitives<T>().affine(x.data(), y.data(), {1, 65536, 0},
                                     {&map.mean, &map.scale, &map.shift},
                                     cpu::vec::Origin::kCaches);
    for (int i = 0; i < 65536; ++i) {
      const float value = apply(fuses(level), map, widen(x[i]));
      const T expected = narrow<T>(value);
      if (std::isnan(value))
        ASSERT_TRUE(std::isnan(widen(y[i]))) << i;
      else
        ASSERT_EQ(y[i].bits, expected.bits) << i;
    }
  }
}

TEST(Conversions, EveryHalfOnEveryLevel) {
  for (Level level : levels()) {
    check_conversions<BFloat16>(level);
    check_conversions<Float16>(level);
  }
}

}  // namespace
}  // namespace torchbn::test
