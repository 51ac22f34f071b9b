#pragma once

#include "cpu/vec/primitives.h"

namespace torchbn::cpu::vec {

enum class Level { kBaseline, kAvx2, kAvx512, kAvx512Bf16 };

// The best level this machine runs, whatever the environment says.
Level highest_level();

// The primitives in use: those of the highest level, lowered by the environment variable
// ATEN_CPU_CAPABILITY (default, avx2, avx512) as ATen's own kernels are.
const PrimitiveSet& primitive_set();
template <typename T>
const Primitives<T>& primitives() {
  return primitive_set().get<T>();
}

// Chooses the level of the calls that follow; for tests. The machine must support it.
void force_level(Level level);

}  // namespace torchbn::cpu::vec
