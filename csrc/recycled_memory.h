#pragma once

#include <cstddef>

#include <c10/core/Allocator.h>

namespace torchbn {

// Memory for outputs on the CPU. The C library hands a block of more than 32 MiB back to Linux as
// soon as it is freed, so that every output would be made of fresh pages, and clearing those takes
// longer than normalising (102 MB on a Zen 4 server: 23 ms in pages of 4 KiB, 9 in huge ones, 6
// where there is nothing to clear). Smaller blocks it keeps at times, but not in a process that has
// none larger: twice the largest block is the most that it leaves free at the end of its heap.
// (Training steps of (1024, 512) in float32 alone take 1.7 ms then instead of 0.2, those of
// (16, 16, 32, 32) 0.5 instead of 0.25.)
//
// Here a freed block is kept for the next output of about its size, up to a limit on all of them.
// The blocks freed last, up to half of the limit, stay the process's own. What older ones hold is
// given up (MADV_FREE): where memory is short Linux takes those pages at once, as it would those of
// files that it can read again. Fresh blocks ask for huge pages, where they are as large; then one
// may be a huge page larger than the output that takes it.
//
// Outputs below this size, of which the C library always keeps some at the end of its heap, and all
// where there is no MADV_FREE, live in torch's own memory.
inline constexpr size_t kLeastRecycled = size_t{128} << 10;

c10::Allocator& recycling_allocator();

// For tests: what is kept at the moment, and the limit: 1 GiB, or what the environment variable
// TORCHBN_RECYCLED_MIB says.
struct RecycledMemory {
  size_t blocks;
  size_t bytes;
  size_t limit;
};
RecycledMemory recycled_memory();

}  // namespace torchbn
