#include "cuda/simulated/device.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cuda/simulated/cuda_runtime_api.h"
#include "cuda/simulated/races.h"

namespace torchbn::simulated {

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = size_t{64} << 10;
constexpr size_t kMaxExchanged = 16;
constexpr unsigned kMaxCluster = 16;    // unless it is the grid
constexpr size_t kGuard = 256;          // bytes on either side of shared memory
constexpr unsigned char kUnset = 0xff;  // NaN in every type

enum class State { kReady, kAtBlock, kAtCluster, kAtWarp, kDone };

struct Copy {
  void* to;
  const void* from;
  size_t size;
  int batch;
};

// Contexts are made with makecontext and changed with _longjmp, which asks the system for nothing.
struct Thread {
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<unsigned char[]> stack{new unsigned char[kStackBytes]};
  State state = State::kDone;
  std::array<unsigned char, kMaxExchanged> value;

  // Of one kernel.
  std::array<int, 3> waits{};  // of each kind so far
  std::deque<Copy> copies;     // that have not landed
  int batches = 0;             // committed
  int block_barriers = 0;      // that it has come to
  int cluster_arrivals = 0;    // likewise
  int cluster_waits = 0;
  bool arrived = false;    // at a cluster's barrier, and has not waited
  int64_t arrived_in = 0;  // the phase of that barrier; negative for one that is left out

  void begin() {
    state = State::kReady;
    waits = {};
    copies.clear();
    batches = 0;
    block_barriers = cluster_arrivals = cluster_waits = 0;
    arrived = false;
  }
};

struct Device {
  Order order = Order::kForward;
  std::mt19937 random;
  Wait left_out = Wait::kForBlock;
  int left_out_nth = -1;
  int launches = 0;
  Queue queue;
  bool looks_for_races = false;

  const std::function<void()>* kernel = nullptr;
  jmp_buf scheduler;
  std::exception_ptr error;  // of a thread

  // The cluster that runs, block after block.
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<std::vector<unsigned char>> shared;  // with guards
  size_t shared_bytes = 0;
  unsigned cluster = 1;
  unsigned rank = 0;  // of the block that runs
  size_t arrived = 0;
  int64_t phase = 0;  // of the cluster's barrier
};

Device device;

Thread& thread_of(unsigned rank, unsigned index) {
  return *device.threads[size_t{rank} * blockDim.x + index];
}

Thread& current() {
  return thread_of(device.rank, threadIdx.x);
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

// Counts the current thread's wait.
bool is_left_out(Wait kind) {
  const int nth = current().waits[static_cast<size_t>(kind)]++;
  return kind == device.left_out && nth == device.left_out_nth;
}

// One kernel after the other, block for block.
void live() {
  for (;;) {
    try {
      (*device.kernel)();
      if (!current().copies.empty()) throw std::logic_error("a copy was never waited for");
    } catch (...) {
      device.error = std::current_exception();
    }
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

[[noreturn]] void fail(std::exception_ptr error) {
  device.threads.clear();  // their kernel is over
  device.error = nullptr;
  std::rethrow_exception(std::move(error));
}

bool all(unsigned rank, unsigned begin, unsigned end, State state) {
  for (unsigned i = begin; i < end; ++i)
    if (thread_of(rank, i).state != state) return false;
  return true;
}

// Lets threads go on who have waited for each other, if they have all come.
bool release(unsigned rank, unsigned begin, unsigned end, State state) {
  if (!all(rank, begin, end, state)) return false;
  for (unsigned i = begin; i < end; ++i) thread_of(rank, i).state = State::kReady;
  return true;
}

// As far as the warp gets without the others, so that warps run as far apart as they can.
void run_warp(unsigned rank, unsigned warp) {
  const unsigned begin = warp * kWarp;
  do {
    for (const unsigned lane : ordered(kWarp)) {
      Thread& thread = thread_of(rank, begin + lane);
      if (thread.state != State::kReady) continue;
      device.rank = rank;
      threadIdx.x = begin + lane;
      resume(thread);
      if (device.error) fail(device.error);
    }
  } while (release(rank, begin, begin + kWarp, State::kAtWarp));
}

bool has_ended(unsigned rank) {
  return all(rank, 0, blockDim.x, State::kDone);
}

// As far as the block gets without the others of its cluster.
void run_block(unsigned rank) {
  if (has_ended(rank)) return;
  do {
    for (const unsigned warp : ordered(blockDim.x / kWarp)) run_warp(rank, warp);
  } while (release(rank, 0, blockDim.x, State::kAtBlock));
  if (!has_ended(rank)) return;
  std::vector<unsigned char>& memory = device.shared[rank];
  const auto untouched = [](unsigned char byte) { return byte == kUnset; };
  if (!std::all_of(memory.begin(), memory.begin() + kGuard, untouched) ||
      !std::all_of(memory.end() - kGuard, memory.end(), untouched))
    fail(std::make_exception_ptr(std::out_of_range("a write beside shared memory")));
  std::fill(memory.begin(), memory.end(), kUnset);
}

// Lets threads go on for whom the cluster's barrier has opened.
bool release_cluster() {
  bool any = false;
  for (const auto& thread : device.threads)
    if (thread->state == State::kAtCluster && thread->arrived_in != device.phase) {
      thread->state = State::kReady;
      any = true;
    }
  return any;
}

void run_cluster(unsigned index) {
  for (unsigned rank = 0; rank < device.cluster; ++rank) {
    for (unsigned i = 0; i < blockDim.x; ++i) thread_of(rank, i).begin();
    device.shared[rank].assign(device.shared_bytes + 2 * kGuard, kUnset);
    declare_shared(device.shared[rank].data(), device.shared[rank].size());
  }
  device.arrived = 0;
  do {
    for (const unsigned rank : ordered(device.cluster)) {
      blockIdx.x = index * device.cluster + rank;
      run_block(rank);
    }
  } while (release_cluster());
  for (unsigned rank = 0; rank < device.cluster; ++rank)
    if (!has_ended(rank))
      fail(std::make_exception_ptr(std::logic_error("threads wait for each other for ever")));
}

// The offset of what lies in the own block's shared memory.
size_t offset_of(const void* own, size_t size) {
  const auto* const begin = static_cast<const unsigned char*>(dynamic_shared());
  const auto* const at = static_cast<const unsigned char*>(own);
  if (at < begin || at + size > begin + device.shared_bytes)
    throw std::out_of_range("an address that is not in the block's shared memory");
  return static_cast<size_t>(at - begin);
}

}  // namespace

void set_order(Order order) {
  device.order = order;
  device.random.seed(1);
}

WithoutWait::WithoutWait(Wait wait, int nth) {
  device.left_out = wait;
  device.left_out_nth = nth;
}

WithoutWait::~WithoutWait() {
  device.left_out_nth = -1;
}

void run(const Launch& launch) {
  const unsigned cluster = launch.cluster;
  if (launch.grid < 1 || launch.block < 32 || launch.block > 1024 || launch.block % 32 != 0 ||
      cluster < 1 || (cluster > kMaxCluster && cluster != launch.grid) ||
      launch.grid % cluster != 0)
    throw std::invalid_argument("no such launch is simulated");
  ++device.launches;
  gridDim.x = launch.grid;
  blockDim.x = static_cast<unsigned>(launch.block);
  device.kernel = &launch.kernel;
  device.cluster = cluster;
  device.shared_bytes = launch.dynamic_shared;
  device.shared.resize(cluster);
  device.threads.resize(std::max(device.threads.size(), size_t{cluster} * blockDim.x));
  for (auto& thread : device.threads)
    if (!thread) thread = std::make_unique<Thread>();
  const RaceSearch search(device.looks_for_races);
  for (const unsigned index : ordered(launch.grid / cluster)) run_cluster(index);
  if (!search.found().empty()) throw Race(search.found());
}

RaceWatch::RaceWatch(bool watches) {
  device.looks_for_races = watches;
}

RaceWatch::~RaceWatch() {
  device.looks_for_races = false;
}

Accessor accessor() {
  const Thread& thread = current();
  return {blockIdx.x,
          threadIdx.x,
          blockIdx.x / device.cluster,
          thread.block_barriers,
          thread.cluster_arrivals,
          thread.cluster_waits,
          thread.stack.get(),
          kStackBytes};
}

void set_queue(Queue queue) {
  device.queue = std::move(queue);
}

int enqueue(const Launch& launch) {
  if (device.queue) return device.queue(launch);
  run(launch);
  return 0;
}

int launches() {
  return device.launches;
}

void wait_for_block() {
  if (is_left_out(Wait::kForBlock)) return;
  ++current().block_barriers;
  wait(State::kAtBlock);
}

void exchange(unsigned mask, const void* value, void* result, size_t size, unsigned from) {
  if (mask != 0xffffffffu || size > kMaxExchanged)
    throw std::invalid_argument("no such exchange is simulated");
  std::memcpy(current().value.data(), value, size);
  wait(State::kAtWarp);
  std::memcpy(result, thread_of(device.rank, threadIdx.x / kWarp * kWarp + from).value.data(),
              size);
  wait(State::kAtWarp);  // before anyone leaves another value
}

void* dynamic_shared() {
  return device.shared[device.rank].data() + kGuard;
}

void copy_later(void* to, const void* from, size_t size) {
  const auto misaligned = [&](const void* p) { return reinterpret_cast<uintptr_t>(p) % size != 0; };
  if ((size != 4 && size != 8 && size != 16) || misaligned(to) || misaligned(from))
    throw std::invalid_argument("no such copy is simulated");
  offset_of(to, size);
  // Now, and once more when it lands: nobody else touches them in between.
  note_access(from, size, false);
  note_access(to, size, true);
  current().copies.push_back({to, from, size, current().batches});
}

void commit_copies() {
  ++current().batches;
}

void wait_for_copies(int pending) {
  if (is_left_out(Wait::kForCopies)) return;
  std::deque<Copy>& copies = current().copies;
  while (!copies.empty() && copies.front().batch < current().batches - pending) {
    note_access(copies.front().from, copies.front().size, false);
    note_access(copies.front().to, copies.front().size, true);
    std::memcpy(copies.front().to, copies.front().from, copies.front().size);
    copies.pop_front();
  }
}

unsigned rank_in_cluster() {
  return device.rank;
}

void arrive_at_cluster() {
  Thread& thread = current();
  if (thread.arrived) throw std::logic_error("a thread arrives twice without having waited");
  thread.arrived = true;
  thread.arrived_in = is_left_out(Wait::kForCluster) ? -1 : device.phase;
  if (thread.arrived_in < 0) return;
  ++thread.cluster_arrivals;
  if (++device.arrived < size_t{device.cluster} * blockDim.x) return;
  device.arrived = 0;
  ++device.phase;
}

void wait_for_cluster() {
  Thread& thread = current();
  if (!thread.arrived) throw std::logic_error("a thread waits without having arrived");
  thread.arrived = false;
  while (thread.arrived_in == device.phase) wait(State::kAtCluster);
  if (thread.arrived_in >= 0) ++thread.cluster_waits;
}

void* shared_of_rank(const void* own, unsigned rank) {
  const size_t offset = offset_of(own, 1);
  if (rank >= device.cluster) throw std::out_of_range("no such block in the cluster");
  if (has_ended(rank)) throw std::logic_error("that block has ended, and its memory is gone");
  return device.shared[rank].data() + kGuard + offset;
}

}  // namespace torchbn::simulated
