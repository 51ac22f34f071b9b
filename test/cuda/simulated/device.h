#pragma once

#include <cstddef>
#include <functional>

// A GPU on the host, one block after the other: every thread of a block is a context of its own
// that runs until it waits for the others. That is the kernels' own code, with barriers and
// exchanges between lanes; what a GPU adds is that threads really run at once.
namespace torchbn::simulated {

struct Index {
  unsigned x = 0;
};

// Who runs first, of blocks and of the threads that wait for nothing. Results must not depend on
// it: where they do, a barrier is missing.
enum class Order { kForward, kBackward, kShuffled };
void set_order(Order order);

// Runs the kernel in every thread. Throws where threads wait for others that never come.
void launch(unsigned grid, int block, size_t dynamic_shared, void* stream,
            const std::function<void()>& kernel);

// Called by a thread: waits for all of its block.
void wait_for_block();

// Called by a thread: leaves `value` to the other lanes of its warp, of which the mask must name
// all, and takes over that of lane `from`.
void exchange(unsigned mask, const void* value, void* result, size_t size, unsigned from);

}  // namespace torchbn::simulated
