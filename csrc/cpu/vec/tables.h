#pragma once

#include "cpu/vec/primitives.h"

namespace torchbn::cpu::vec {

// One table per translation unit: baseline.cpp, avx2.cpp, avx512.cpp.
extern const Table kBaselineTable;
#if defined(__x86_64__)
extern const Table kAvx2Table;
extern const Table kAvx512Table;
#endif

}  // namespace torchbn::cpu::vec
