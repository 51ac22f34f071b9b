#pragma once

#include "cpu/vec/primitives.h"

namespace torchbn::cpu::vec {

// One table per translation unit: baseline.cpp, avx2.cpp, avx512.cpp; and what avx512_bf16.cpp does
// better.
extern const Table kBaselineTable;
#if defined(__x86_64__)
extern const Table kAvx2Table;
extern const Table kAvx512Table;
extern const Primitives<BFloat16> kAvx512Bf16;
#endif

}  // namespace torchbn::cpu::vec
