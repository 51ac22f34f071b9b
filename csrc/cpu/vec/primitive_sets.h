#pragma once

#include "cpu/vec/primitives.h"

namespace torchbn::cpu::vec {

// One table per translation unit: baseline.cpp, avx2.cpp, avx512.cpp; and what avx512_bf16.cpp does
// better.
extern const PrimitiveTable kBaselineTable;
#if defined(__x86_64__)
extern const PrimitiveTable kAvx2Table;
extern const PrimitiveTable kAvx512Table;
extern const Primitives<BFloat16> kAvx512Bf16;
#endif

}  // namespace torchbn::cpu::vec
