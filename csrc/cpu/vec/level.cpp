#include "cpu/vec/level.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include "cpu/vec/tables.h"

namespace torchbn::cpu::vec {
namespace {

const PrimitiveTable& table_of(Level level) {
#if defined(__x86_64__)
  if (level == Level::kAvx512Bf16) {
    static const PrimitiveTable table{kAvx512Table.get<float>(), kAvx512Table.get<double>(),
                                      kAvx512Bf16, kAvx512Table.get<Float16>()};
    return table;
  }
  if (level == Level::kAvx512) return kAvx512Table;
  if (level == Level::kAvx2) return kAvx2Table;
#endif
  (void)level;
  return kBaselineTable;
}

Level allowed_level() {
  const char* name = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view capability = name == nullptr ? "" : name;
  if (capability == "default") return Level::kBaseline;
  if (capability == "avx2") return Level::kAvx2;
  return Level::kAvx512Bf16;
}

std::atomic<const PrimitiveTable*>& current() {
  static std::atomic<const PrimitiveTable*> table{
      &table_of(std::min(highest_level(), allowed_level()))};
  return table;
}

}  // namespace

Level highest_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  if (!avx2) return Level::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!avx512) return Level::kAvx2;
  return __builtin_cpu_supports("avx512bf16") ? Level::kAvx512Bf16 : Level::kAvx512;
#else
  return Level::kBaseline;
#endif
}

const PrimitiveTable& table() {
  return *current().load(std::memory_order_relaxed);
}

void force_level(Level level) {
  current().store(&table_of(level), std::memory_order_relaxed);
}

}  // namespace torchbn::cpu::vec
