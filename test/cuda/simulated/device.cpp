#include "cuda/simulated/device.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <vector>

#include "cuda/simulated/cuda_runtime_api.h"

namespace torchbn::simulated {

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = size_t{64} << 10;
constexpr size_t kMaxExchanged = 16;

enum class State { kReady, kAtBlock, kAtWarp, kDone };

// Contexts are made with makecontext and changed with _longjmp, which asks the system for nothing.
struct Thread {
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  State state = State::kDone;
  std::array<unsigned char, kMaxExchanged> value;
};

struct Device {
  Order order = Order::kForward;
  std::mt19937 random;
  std::vector<std::unique_ptr<Thread>> threads;
  const std::function<void()>* kernel = nullptr;
  jmp_buf scheduler;
};

Device device;

Thread& current() {
  return *device.threads[threadIdx.x];
}

std::vector<unsigned> ordered(unsigned count) {
  std::vector<unsigned> indices(count);
  std::iota(indices.begin(), indices.end(), 0u);
  if (device.order == Order::kBackward) std::reverse(indices.begin(), indices.end());
  if (device.order == Order::kShuffled) std::shuffle(indices.begin(), indices.end(), device.random);
  return indices;
}

void wait(State state) {
  Thread& thread = current();
  thread.state = state;
  if (_setjmp(thread.place) == 0) _longjmp(device.scheduler, 1);
}

// One kernel after the other, block for block.
void live() {
  for (;;) {
    (*device.kernel)();
    wait(State::kDone);
  }
}

// Until the thread waits.
void resume(Thread& thread) {
  if (_setjmp(device.scheduler) != 0) return;
  if (thread.begun) _longjmp(thread.place, 1);
  thread.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  makecontext(&context, live, 0);
  setcontext(&context);
}

bool all(size_t begin, size_t end, State state) {
  return std::all_of(device.threads.begin() + static_cast<ptrdiff_t>(begin),
                     device.threads.begin() + static_cast<ptrdiff_t>(end),
                     [&](const auto& thread) { return thread->state == state; });
}

// Lets threads go on who have waited for each other, if they have all come.
bool release(size_t begin, size_t end, State state) {
  if (!all(begin, end, state)) return false;
  for (size_t i = begin; i < end; ++i) device.threads[i]->state = State::kReady;
  return true;
}

// As far as the warp gets without the others, so that warps run as far apart as they can.
void run_warp(unsigned warp) {
  const unsigned begin = warp * kWarp;
  do {
    for (const unsigned lane : ordered(kWarp)) {
      if (device.threads[begin + lane]->state != State::kReady) continue;
      threadIdx.x = begin + lane;
      resume(*device.threads[begin + lane]);
    }
  } while (release(begin, begin + kWarp, State::kAtWarp));
}

void run_block(unsigned block) {
  for (unsigned i = 0; i < block; ++i) device.threads[i]->state = State::kReady;
  do {
    for (const unsigned warp : ordered(block / kWarp)) run_warp(warp);
  } while (release(0, block, State::kAtBlock));
  if (!all(0, block, State::kDone)) {
    device.threads.clear();  // their kernel is over
    throw std::logic_error("threads wait for each other for ever");
  }
}

}  // namespace

void set_order(Order order) {
  device.order = order;
  device.random.seed(1);
}

void launch(unsigned grid, int block, size_t dynamic_shared, void* stream,
            const std::function<void()>& kernel) {
  if (grid < 1 || block < 32 || block > 1024 || block % 32 != 0 || dynamic_shared != 0 ||
      stream != nullptr)
    throw std::invalid_argument("no such launch is simulated");
  while (device.threads.size() < static_cast<size_t>(block))
    device.threads.push_back(std::make_unique<Thread>());
  device.kernel = &kernel;
  gridDim.x = grid;
  blockDim.x = static_cast<unsigned>(block);
  for (const unsigned index : ordered(grid)) {
    blockIdx.x = index;
    run_block(blockDim.x);
  }
}

void wait_for_block() {
  wait(State::kAtBlock);
}

void exchange(unsigned mask, const void* value, void* result, size_t size, unsigned from) {
  if (mask != 0xffffffffu || size > kMaxExchanged)
    throw std::invalid_argument("no such exchange is simulated");
  std::memcpy(current().value.data(), value, size);
  wait(State::kAtWarp);
  std::memcpy(result, device.threads[threadIdx.x / kWarp * kWarp + from]->value.data(), size);
  wait(State::kAtWarp);  // before anyone leaves another value
}

}  // namespace torchbn::simulated
