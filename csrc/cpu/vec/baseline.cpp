// The primitives for every machine the compiler targets by default: SSE2 on x86-64, NEON on ARM.
#include "cpu/vec/make_table.h"

namespace torchbn::cpu::vec {
constinit const PrimitiveTable kBaselineTable = make_table();
}  // namespace torchbn::cpu::vec
