#pragma once

#include <vector>

#include "cpu/vec/level.h"

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

// Forces a level for a scope.
class ForcedLevel {
 public:
  explicit ForcedLevel(cpu::vec::Level level) { cpu::vec::force_level(level); }
  ~ForcedLevel() { cpu::vec::force_level(cpu::vec::highest_level()); }
  ForcedLevel(const ForcedLevel&) = delete;
  ForcedLevel& operator=(const ForcedLevel&) = delete;
};

}  // namespace torchbn::test
