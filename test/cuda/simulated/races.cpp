#include "cuda/simulated/races.h"

#include <link.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <vector>

#include "cuda/simulated/cuda_runtime_api.h"

namespace torchbn::simulated {

namespace {

struct Access {
  bool any = false;
  unsigned block = 0, thread = 0, cluster = 0;
  int block_barriers = 0, cluster_arrivals = 0;

  bool is_of(const Accessor& by) const { return any && block == by.block && thread == by.thread; }
  // Has a barrier kept it apart from what `by` does now?
  bool precedes(const Accessor& by) const {
    if (cluster != by.cluster) return false;
    return by.cluster_waits > cluster_arrivals ||
           (block == by.block && by.block_barriers > block_barriers);
  }
};

// The last write of a byte, and the last reads: of all; of another thread of that one's block;
// of another block of its cluster; of another cluster. Of many that read between two barriers,
// these tell of all.
struct Cell {
  Access write, read, other_thread, other_block, other_cluster;

  void add_read(const Access& now) {
    if (read.any && read.cluster != now.cluster)
      other_cluster = read;
    else if (read.any && read.block != now.block)
      other_block = read;
    else if (read.any && read.thread != now.thread)
      other_thread = read;
    read = now;
  }
};

struct Range {
  uintptr_t begin = 0, end = 0;
  bool has(uintptr_t address) const { return address >= begin && address < end; }
  bool operator==(const Range&) const = default;
};

// The variables of this library or program, where shared memory of fixed size lies.
Range own_variables() {
  Range range;
  const auto find = [](dl_phdr_info* info, size_t, void* found) {
    const auto here = reinterpret_cast<uintptr_t>(&threadIdx);
    for (int i = 0; i < info->dlpi_phnum; ++i) {
      const auto& segment = info->dlpi_phdr[i];
      const uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
      if (segment.p_type == PT_LOAD && here >= begin && here < begin + segment.p_memsz)
        *static_cast<Range*>(found) = {begin, begin + segment.p_memsz};
    }
    return 0;
  };
  dl_iterate_phdr(find, &range);
  return range;
}

class Races {
 public:
  bool looks = false;
  std::string found;

  void declare_shared(Range range) {
    if (std::find(shared_.begin(), shared_.end(), range) == shared_.end()) shared_.push_back(range);
  }
  void forget() {
    pages_.clear();
    last_page_ = nullptr;
    shared_ = {variables_};
  }

  void note(uintptr_t address, size_t bytes, bool writes) {
    const Accessor by = accessor();
    const auto stack = reinterpret_cast<uintptr_t>(by.stack);
    if (Range{stack, stack + by.stack_bytes}.has(address)) return;
    bool shared = false;
    for (const Range& range : shared_) shared = shared || range.has(address);
    for (size_t i = 0; i < bytes && found.empty(); ++i) note(cell(address + i), by, writes, shared);
  }

 private:
  static constexpr size_t kPage = 1024;
  using Page = std::array<Cell, kPage>;

  Cell& cell(uintptr_t address) {
    const uintptr_t number = address / kPage;
    if (last_page_ == nullptr || number != last_number_) {
      std::unique_ptr<Page>& page = pages_[number];
      if (!page) page = std::make_unique<Page>();
      last_page_ = page.get();
      last_number_ = number;
    }
    return (*last_page_)[address % kPage];
  }

  void note(Cell& cell, const Accessor& by, bool writes, bool shared) {
    const auto conflicts = [&](const Access& earlier) {
      if (!earlier.any || earlier.is_of(by)) return false;
      if (shared && earlier.cluster != by.cluster) return false;
      return !earlier.precedes(by);
    };
    const Access now{true, by.block, by.thread, by.cluster, by.block_barriers, by.cluster_arrivals};
    if (conflicts(cell.write)) report(cell.write, by, "write", writes, shared);
    if (!writes) return cell.add_read(now);
    for (const Access* const read :
         {&cell.read, &cell.other_thread, &cell.other_block, &cell.other_cluster})
      if (conflicts(*read)) report(*read, by, "read", writes, shared);
    cell.write = now;
  }

  void report(const Access& earlier, const Accessor& by, const char* what, bool writes,
              bool shared) {
    const auto thread = [](unsigned number, unsigned block) {
      return "thread " + std::to_string(number) + " of block " + std::to_string(block);
    };
    if (!found.empty()) return;
    found = std::string("a race in ") + (shared ? "shared" : "global") + " memory: a " + what +
            " of " + thread(earlier.thread, earlier.block) + " and a " +
            (writes ? "write" : "read") + " of " + thread(by.thread, by.block);
  }

  const Range variables_ = own_variables();
  std::vector<Range> shared_;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  uintptr_t last_number_ = 0;
  Page* last_page_ = nullptr;
};

Races races;

}  // namespace

RaceSearch::RaceSearch(bool searches) {
  races.forget();
  races.found.clear();
  races.looks = searches;
}

RaceSearch::~RaceSearch() {
  races.looks = false;
  races.forget();
}

const std::string& RaceSearch::found() {
  return races.found;
}

void declare_shared(const void* begin, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  if (races.looks) races.declare_shared({address, address + bytes});
}

void note_access(const void* address, size_t bytes, bool writes) {
  if (races.looks) races.note(reinterpret_cast<uintptr_t>(address), bytes, writes);
}

}  // namespace torchbn::simulated

// What the compiler calls. NOLINTBEGIN: its names.
extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

#define TORCHBN_ACCESSES(bytes)                             \
  void __tsan_read##bytes(void* address) {                  \
    torchbn::simulated::note_access(address, bytes, false); \
  }                                                         \
  void __tsan_write##bytes(void* address) {                 \
    torchbn::simulated::note_access(address, bytes, true);  \
  }                                                         \
  void __tsan_unaligned_read##bytes(void* address) {        \
    torchbn::simulated::note_access(address, bytes, false); \
  }                                                         \
  void __tsan_unaligned_write##bytes(void* address) {       \
    torchbn::simulated::note_access(address, bytes, true);  \
  }
TORCHBN_ACCESSES(1)
TORCHBN_ACCESSES(2)
TORCHBN_ACCESSES(4)
TORCHBN_ACCESSES(8)
TORCHBN_ACCESSES(16)

void __tsan_read_range(void* address, size_t bytes) {
  torchbn::simulated::note_access(address, bytes, false);
}
void __tsan_write_range(void* address, size_t bytes) {
  torchbn::simulated::note_access(address, bytes, true);
}
// clang's
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  torchbn::simulated::note_access(from, bytes, false);
  torchbn::simulated::note_access(to, bytes, true);
  return std::memcpy(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  torchbn::simulated::note_access(to, bytes, true);
  return std::memset(to, value, bytes);
}
void __tsan_vptr_update(void*, void*) {}
void __tsan_vptr_read(void*) {}

}  // extern "C"
// NOLINTEND
