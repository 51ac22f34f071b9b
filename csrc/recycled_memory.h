#pragma once

#include <cstddef>

#include <c10/core/Allocator.h>

namespace torchbn {

// Memory for large outputs on the CPU. The C library hands a block of more than 32 MiB back to the
// kernel as soon as it is freed, so that every output would be made of fresh pages, and clearing
// those takes longer than normalising (102 MB on a Zen 4 server: 23 ms in pages of 4 KiB, 9 in huge
// ones, 6 where there is nothing to clear).
//
// Here a freed block is kept for the next output of about its size, up to a limit on all of them.
// What it holds is given up (MADV_FREE): a kernel short of memory takes the pages at once, as it
// would those of files that it can read again. Fresh blocks ask for huge pages.
//
// Outputs below this size, and all where the kernel has no MADV_FREE, live in torch's own memory.
inline constexpr size_t kLeastRecycled = size_t{4} << 20;

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
