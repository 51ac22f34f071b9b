#pragma once

#include <cstddef>
#include <functional>
#include <stdexcept>

// A GPU on the host, one cluster of blocks after the other: every thread of it is a context of its
// own that runs until it waits for others. That is the kernels' own code, with barriers, exchanges
// between lanes, shared memory and copies to it; what a GPU adds is that threads really run at
// once.
namespace torchbn::simulated {

struct Index {
  unsigned x = 0;
};

// Who runs first, of blocks and of the threads that wait for nothing. Results must not depend on
// it: where they do, a barrier is missing.
enum class Order { kForward, kBackward, kShuffled };
void set_order(Order order);

// What a thread waits for. To show that a kernel needs what it does, for the time of a scope all
// its threads leave out their `nth` wait of a kind, counted from 0.
enum class Wait { kForBlock, kForCluster, kForCopies };
class WithoutWait {
 public:
  WithoutWait(Wait wait, int nth);
  ~WithoutWait();
  WithoutWait(const WithoutWait&) = delete;
  WithoutWait& operator=(const WithoutWait&) = delete;
};

// For the time of a scope kernels throw in which two threads access the same memory without a
// barrier between them, one of them writing.
struct Race : std::logic_error {
  using std::logic_error::logic_error;
};
class RaceWatch {
 public:
  explicit RaceWatch(bool watches = true);
  ~RaceWatch();
  RaceWatch(const RaceWatch&) = delete;
  RaceWatch& operator=(const RaceWatch&) = delete;
};

struct Launch {
  unsigned grid = 1;
  int block = 32;
  size_t dynamic_shared = 0;
  unsigned cluster = 1;  // blocks that run together
  bool cooperative = false;
  void* stream = nullptr;
  std::function<void()> kernel;  // in one thread
};

// Runs the kernel in every thread of the grid. Throws where threads wait for others that never
// come, and where a kernel misuses what is declared below.
void run(const Launch& launch);

// What takes launches instead, and returns an error code of CUDA's: by default they are run.
using Queue = std::function<int(const Launch&)>;
void set_queue(Queue queue);
int enqueue(const Launch& launch);

// Launches so far.
int launches();

// All that follows is called by threads.

void wait_for_block();

// Leaves `value` to the other lanes of the warp, of which the mask must name all, and takes over
// that of lane `from`.
void exchange(unsigned mask, const void* value, void* result, size_t size, unsigned from);

// The block's dynamic shared memory. It is NaN at first and again when the block has ended; what is
// written beside it is noticed.
void* dynamic_shared();

// A copy to the own shared memory of 4, 8 or 16 bytes, aligned to as many. It lands no sooner than
// its thread waits for all but the last `pending` of the batches that it has committed.
void copy_later(void* to, const void* from, size_t size);
void commit_copies();
void wait_for_copies(int pending);

unsigned rank_in_cluster();
void arrive_at_cluster();
void wait_for_cluster();
// What lies in the shared memory of block `rank`, which must not have ended, where `own` lies in
// the own block's.
void* shared_of_rank(const void* own, unsigned rank);

}  // namespace torchbn::simulated
