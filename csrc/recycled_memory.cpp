#include "recycled_memory.h"

#include <cstdlib>
#include <iterator>
#include <mutex>
#include <vector>

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#if defined(__linux__)
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace torchbn {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;

#if defined(__linux__) && defined(MADV_FREE) && defined(MADV_HUGEPAGE)
constexpr bool kRecycles = true;

// The pages of a block that is so large.
size_t page_of(size_t bytes) {
  static const auto usual = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes < kHugePage ? usual : kHugePage;
}

// A block in huge pages as far as it has whole ones; null where there is no memory. Refused is the
// advice where Linux has no huge pages: the block is as good without.
void* fresh_block(size_t bytes) {
  void* block = nullptr;
  if (posix_memalign(&block, page_of(bytes), bytes) != 0) return nullptr;
  if (bytes >= kHugePage) madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return block;
}

size_t size_of_block(void* block) {
  return malloc_usable_size(block);
}

// Allows Linux to take the pages, until they are written again. Is it able to?
bool give_up(void* block, size_t bytes) {
  return madvise(block, bytes / page_of(bytes) * page_of(bytes), MADV_FREE) == 0;
}
#else
constexpr bool kRecycles = false;
size_t page_of(size_t) {
  return kHugePage;
}
void* fresh_block(size_t) {
  return nullptr;
}
size_t size_of_block(void*) {
  return 0;
}
bool give_up(void*, size_t) {
  return false;
}
#endif

size_t limit_from_environment() {
  constexpr size_t kDefaultMib = 1024;
  constexpr size_t kMostMib = size_t{1} << 40;
  const char* const value = std::getenv("TORCHBN_RECYCLED_MIB");
  size_t mib = kDefaultMib;
  if (value != nullptr) {
    char* end = nullptr;
    mib = std::strtoull(value, &end, 10);
    TORCH_CHECK_VALUE(*value >= '0' && *value <= '9' && *end == '\0' && mib <= kMostMib,
                      "TORCHBN_RECYCLED_MIB must be a number of mebibytes, 0 or more, but it is \"",
                      value, "\"");
  }
  return kRecycles ? mib << 20 : 0;
}

// Blocks that wait for an output. No thread waits for another here: whoever finds it busy does
// without, and so does, for ever, a process forked at such a moment.
class Kept {
 public:
  // With room for all: put() is called where nobody could handle its failure.
  explicit Kept(size_t limit) : limit_(limit) { blocks_.reserve(kMostBlocks + 1); }

  size_t limit() const { return limit_; }

  // One of at least `bytes`, and at most an eighth and a page more, the latest: it may still be in
  // the caches. (The last page of a block may be there only for its alignment.)
  void* take(size_t bytes) {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) return nullptr;
    for (auto it = blocks_.rbegin(); it != blocks_.rend(); ++it) {
      if (it->bytes < bytes || it->bytes - bytes > bytes / 8 + page_of(bytes)) continue;
      void* const begin = it->begin;
      blocks_.erase(std::next(it).base());
      return begin;
    }
    return nullptr;
  }

  // Frees the block where there is no room. What was kept longest is given up, or makes room.
  void put(void* begin) {
    Block block{begin, size_of_block(begin)};
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock || block.bytes > limit_) return std::free(begin);
    blocks_.push_back(block);
    size_t later = 0;
    for (auto it = blocks_.rbegin(); it != blocks_.rend(); ++it) {
      later += it->bytes;
      if (later > limit_ || it - blocks_.rbegin() == kMostBlocks)
        it->free();
      else if (later > limit_ / kUntouched)
        it->give_up();
    }
    std::erase_if(blocks_, [](const Block& each) { return each.begin == nullptr; });
  }

  RecycledMemory state() {
    const std::lock_guard lock(mutex_);
    RecycledMemory result{blocks_.size(), 0, limit_};
    for (const Block& block : blocks_) result.bytes += block.bytes;
    return result;
  }

 private:
  // For each huge page given up Linux interrupts all threads of the process, which can take
  // longer than the call: what is in use all the time, this fraction of the limit, is left alone.
  static constexpr size_t kUntouched = 2;
  // Looking through so many takes a tenth of the time of the smallest output that lives here.
  static constexpr ptrdiff_t kMostBlocks = 512;

  struct Block {
    void* begin;
    size_t bytes;
    bool given_up = false;

    void free() {
      std::free(begin);
      begin = nullptr;
    }
    void give_up() {
      if (!given_up && !torchbn::give_up(begin, bytes)) return free();
      given_up = true;
    }
  };

  const size_t limit_;
  std::mutex mutex_;
  std::vector<Block> blocks_;  // the latest at the end
};

// Never destroyed: tensors may outlive everything else in a process.
Kept& kept() {
  static Kept* const all = new Kept(limit_from_environment());
  return *all;
}

void recycle(void* block) {
  c10::profiledCPUMemoryReporter().Delete(block);
  kept().put(block);
}

class Recycling final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    c10::Allocator* const usual = c10::GetCPUAllocator();
    const bool replaced = usual != c10::GetDefaultCPUAllocator();  // by one of the user's
    if (bytes < kLeastRecycled || kept().limit() == 0 || replaced) return usual->allocate(bytes);
    void* block = kept().take(bytes);
    if (block == nullptr) block = fresh_block(bytes);
    if (block == nullptr) return usual->allocate(bytes);
    c10::profiledCPUMemoryReporter().New(block, bytes);
    return {block, block, &recycle, c10::Device(c10::kCPU)};
  }

  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

}  // namespace

c10::Allocator& recycling_allocator() {
  static Recycling* const allocator = new Recycling;
  return *allocator;
}

RecycledMemory recycled_memory() {
  return kept().state();
}

}  // namespace torchbn
