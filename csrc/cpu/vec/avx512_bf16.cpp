// Compiled with the flags of avx512.cpp and -mavx512bf16; run only where level.cpp has found these.
// Only narrowing to bfloat16 gains by them: everything else is that of avx512.cpp.
#include "cpu/vec/make_primitives.h"

#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512VL__) || \
    !defined(__AVX512DQ__) || !defined(__AVX512BF16__)
#error "avx512_bf16.cpp needs its own flags: those of avx512.cpp and -mavx512bf16"
#endif

namespace torchbn::cpu::vec {
constinit const Primitives<BFloat16> kAvx512Bf16 = make_primitives<BFloat16>();
}  // namespace torchbn::cpu::vec
