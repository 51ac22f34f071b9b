// Compiled with -mavx2 -mfma -mf16c; run only where level.cpp has found these.
#include "cpu/vec/make_primitives.h"

#if !defined(__AVX2__) || !defined(__F16C__) || defined(__AVX512F__)
#error "avx2.cpp needs its own compiler flags: -mavx2 -mfma -mf16c"
#endif

namespace torchbn::cpu::vec {
constinit const PrimitiveSet kAvx2Set = make_primitive_set();
}  // namespace torchbn::cpu::vec
