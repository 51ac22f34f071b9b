// The primitives for every machine the compiler targets by default: SSE2 on x86-64, NEON on ARM.
#include "cpu/vec/make_primitives.h"

namespace torchbn::cpu::vec {
constinit const PrimitiveSet kBaselineSet = make_primitive_set();
}  // namespace torchbn::cpu::vec
