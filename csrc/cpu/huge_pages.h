#pragma once

#include <cstddef>

namespace torchbn::cpu {

// Asks for huge pages under a large output before it is first written. Fresh memory comes in pages
// of 4 KiB otherwise, and making them takes longer than normalising (102 MB on a Zen 4 server: 23
// ms against 9). Only a hint: where huge pages are off, or the memory is not fresh, nothing
// happens.
void advise_huge_pages(void* begin, size_t bytes);

}  // namespace torchbn::cpu
