#pragma once

#include <cmath>
#include <vector>

#include "core/multiply_add.h"
#include "cpu/vec/level.h"

namespace torchbn::test {

// A number whose products are added with one rounding, as on the levels with an instruction for it.
template <typename V>
struct Fused {
  V value;

  friend Fused operator-(Fused a, Fused b) { return {a.value - b.value}; }
};

}  // namespace torchbn::test

template <typename V>
struct torchbn::MultiplyAdd<torchbn::test::Fused<V>> {
  using Value = torchbn::test::Fused<V>;
  static Value of(Value a, Value b, Value c) { return {std::fma(a.value, b.value, c.value)}; }
};

namespace torchbn::test {

// Every instruction-set level that this machine runs, the baseline first.
inline std::vector<cpu::vec::Level> levels() {
  using cpu::vec::Level;
  std::vector<Level> all;
  for (Level level : {Level::kBaseline, Level::kAvx2, Level::kAvx512, Level::kAvx512Bf16})
    if (level <= cpu::vec::highest_level()) all.push_back(level);
  return all;
}

inline const char* name_of(cpu::vec::Level level) {
  static const char* const names[] = {"baseline", "AVX2", "AVX-512", "AVX-512 BF16"};
  return names[static_cast<int>(level)];
}

// The levels above the baseline round a product and the sum it is added to once, the baseline
// twice: equal bits are those of levels that agree in this.
inline bool fuses(cpu::vec::Level level) {
  return level != cpu::vec::Level::kBaseline;
}

// What `map` makes of the arguments on a level.
template <template <typename> typename Map, typename V, typename... Arguments>
V apply(bool fused, const Map<V>& map, Arguments... arguments) {
  if (!fused) return map(arguments...);
  return map.each([](V value) { return Fused<V>{value}; })(Fused<V>{arguments}...).value;
}

// Forces a level for a scope.
class ForcedLevel {
 public:
  explicit ForcedLevel(cpu::vec::Level level) { cpu::vec::force_level(level); }
  ~ForcedLevel() { cpu::vec::force_level(cpu::vec::highest_level()); }
  ForcedLevel(const ForcedLevel&) = delete;
  ForcedLevel& operator=(const ForcedLevel&) = delete;
};

}  // namespace torchbn::test
