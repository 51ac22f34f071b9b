#include "cpu/huge_pages.h"

#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace torchbn::cpu {

void advise_huge_pages(void* begin, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kHugePage = 2 * 1024 * 1024;
  constexpr size_t kLeastBytes = 2 * kHugePage;
  if (bytes < kLeastBytes) return;
  // The whole huge pages in it.
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  const size_t whole = (bytes - before) / kHugePage * kHugePage;
  // Refused where the kernel has no huge pages; the output is as good without.
  madvise(static_cast<char*>(begin) + before, whole, MADV_HUGEPAGE);
#else
  (void)begin;
  (void)bytes;
#endif
}

}  // namespace torchbn::cpu
