#include "cpu/vec/level.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "cpu/vec/primitive_sets.h"

namespace torchbn::cpu::vec {
namespace {

const PrimitiveSet& set_of(Level level) {
#if defined(__x86_64__)
  if (level == Level::kAvx512Bf16) {
    static const PrimitiveSet set{kAvx512Set.get<float>(), kAvx512Set.get<double>(), kAvx512Bf16,
                                  kAvx512Set.get<Float16>()};
    return set;
  }
  if (level == Level::kAvx512) return kAvx512Set;
  if (level == Level::kAvx2) return kAvx2Set;
#endif
  (void)level;
  return kBaselineSet;
}

Level allowed_level() {
  const char* name = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view capability = name == nullptr ? "" : name;
  if (capability == "default") return Level::kBaseline;
  if (capability == "avx2") return Level::kAvx2;
  return Level::kAvx512Bf16;
}

#if defined(__x86_64__)
// Clang's __builtin_cpu_supports() has no word for it.
bool converts_float16() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

std::atomic<const PrimitiveSet*>& current() {
  static std::atomic<const PrimitiveSet*> set{&set_of(std::min(highest_level(), allowed_level()))};
  return set;
}

}  // namespace

Level highest_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_float16();
  if (!avx2) return Level::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!avx512) return Level::kAvx2;
  return __builtin_cpu_supports("avx512bf16") ? Level::kAvx512Bf16 : Level::kAvx512;
#else
  return Level::kBaseline;
#endif
}

const PrimitiveSet& primitive_set() {
  return *current().load(std::memory_order_relaxed);
}

void force_level(Level level) {
  current().store(&set_of(level), std::memory_order_relaxed);
}

}  // namespace torchbn::cpu::vec
