#pragma once

#include "cpu/vec/primitives.h"

namespace torchbn::cpu::vec {

// One set per translation unit: baseline.cpp, avx2.cpp, avx512.cpp; and what avx512_bf16.cpp does
// better.
extern const PrimitiveSet kBaselineSet;
#if defined(__x86_64__)
extern const PrimitiveSet kAvx2Set;
extern const PrimitiveSet kAvx512Set;
extern const Primitives<BFloat16> kAvx512Bf16;
#endif

}  // namespace torchbn::cpu::vec
