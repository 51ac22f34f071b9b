#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// Finds accesses of two threads to the same memory, one of them a write, with no barrier between
// them that keeps them apart: races on a GPU, whatever the simulation makes of them. The kernels
// are compiled to report their accesses, as for the thread sanitizer, whose functions are replaced
// here.
namespace torchbn::simulated {

// A thread at an access.
struct Accessor {
  unsigned block = 0;
  unsigned thread = 0;       // in the block
  unsigned cluster = 0;      // whose blocks run together
  int block_barriers = 0;    // passed so far
  int cluster_arrivals = 0;  // at barriers of the cluster
  int cluster_waits = 0;     // that have ended
  const unsigned char* stack = nullptr;
  size_t stack_bytes = 0;
};

// From now on, until the end is called for, accesses are those of one kernel.
void begin_looking_for_races();
// What was found first, in words; empty if nothing.
std::string end_looking_for_races();

// Shared memory is another one for every cluster, which may find it where others had theirs.
void declare_shared(const void* begin, size_t bytes);

void note_access(const void* address, size_t bytes, bool writes);

// By device.cpp: the thread that runs.
Accessor accessor();

}  // namespace torchbn::simulated
