#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// Finds accesses of two threads to the same memory, one of them a write, with no barrier between
// them that keeps them apart: races on a GPU, whatever the simulation makes of them. The kernels
// are compiled to report their accesses, as for the thread sanitizer, whose functions are replaced
// here. A byte of memory takes some hundred bytes for it.
//
// A barrier keeps apart what each of the two threads itself does before and after it; that one
// thread's barrier with a third one would do so is not seen, and no kernel counts on it.
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

// For the time of a scope, accesses are those of one kernel's. Only one at a time.
class RaceSearch {
 public:
  explicit RaceSearch(bool searches);
  ~RaceSearch();
  RaceSearch(const RaceSearch&) = delete;
  RaceSearch& operator=(const RaceSearch&) = delete;

  // The first race, in words; empty if there is none.
  static const std::string& found();
};

// Shared memory is a cluster's own: another one's may lie at the same address. The variables of
// this library or program are shared memory, too, where they are of a fixed size.
void declare_shared(const void* begin, size_t bytes);

void note_access(const void* address, size_t bytes, bool writes);

// By device.cpp: the thread that runs.
Accessor accessor();

}  // namespace torchbn::simulated
