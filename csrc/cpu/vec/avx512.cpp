// Compiled with -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c; run only where level.cpp
// has found these.
#include "cpu/vec/make_primitives.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || \
    !defined(__AVX512DQ__)
#error "avx512.cpp needs its own flags: -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c"
#endif

namespace torchbn::cpu::vec {
constinit const PrimitiveSet kAvx512Set = make_primitive_set();
}  // namespace torchbn::cpu::vec
