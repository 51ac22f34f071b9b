#pragma once

#include <cstddef>

#include <c10/core/Allocator.h>

namespace torchbn {

// Memory for large outputs on the CPU. The C library hands a block of more than 32 MiB back to
// Linux as soon as it is freed, so that every output would be made of fresh pages, and clearing
// those takes longer than normalising (102 MB on a Zen 4 server: 23 ms in pages of 4 KiB, 9 in huge
// ones, 6 where there is nothing to clear).
//
// Here a freed block is kept for the next output of about its size, up to a limit on all of them.
// The blocks freed last, up to half of the limit, stay the process's own. What older ones hold is
// given up (MADV_FREE): where memory is short Linux takes those pages at once, as it would those of
// files that it can read again. Fresh blocks ask for huge pages.
//
// Smaller blocks it hands back too where a process has none larger: more than twice the largest one
// never stays free at the end of the heap. (Training steps of (1024, 512) in float32 alone then
// take 1.7 ms instead of 0.2.) Below this size, where there is no whole huge page, and where there
// is no MADV_FREE, outputs live in torch's own memory.
inline constexpr size_t kLeastRecycled = size_t{2} << 20;

c10::Allocator& recycling_allocator();

// What is kept at the moment, and the limit: 1 GiB, or what the environment variable
// TORCHBN_RECYCLED_MIB says.
struct RecycledMemory {
  size_t blocks;
  size_t bytes;
  size_t limit;
};
RecycledMemory recycled_memory();

}  // namespace torchbn
