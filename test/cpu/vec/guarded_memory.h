#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

namespace torchbn::test {

// Memory between two pages that crash whoever reads or writes them.
class GuardedMemory {
 public:
  explicit GuardedMemory(int64_t bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    size_ = (bytes + page - 1) / page * page;
    mapped_ = size_ + 2 * page;
    void* mapping =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) throw std::runtime_error("mmap failed");
    mapping_ = static_cast<unsigned char*>(mapping);
    if (mprotect(mapping_, page, PROT_NONE) != 0 ||
        mprotect(mapping_ + page + size_, page, PROT_NONE) != 0)
      throw std::runtime_error("mprotect failed");
    begin_ = mapping_ + page;
  }
  ~GuardedMemory() { munmap(mapping_, mapped_); }
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  unsigned char* begin() const { return begin_; }
  unsigned char* end() const { return begin_ + size_; }

  // A copy of the values that ends where the memory does: reading on would crash.
  template <typename T>
  T* at_end(const std::vector<T>& values) const {
    return copy(values, reinterpret_cast<T*>(end()) - values.size());
  }
  // A copy that begins `offset` elements after the memory, misaligned as that has it.
  template <typename T>
  T* at_begin(const std::vector<T>& values, int64_t offset) const {
    return copy(values, reinterpret_cast<T*>(begin()) + offset);
  }

 private:
  template <typename T>
  T* copy(const std::vector<T>& values, T* to) const {
    const size_t bytes = values.size() * sizeof(T);
    if (to < static_cast<void*>(begin_) || bytes > static_cast<size_t>(size_))
      throw std::runtime_error("the guarded memory is too small");
    if (bytes > 0) std::memcpy(to, values.data(), bytes);
    return to;
  }

  unsigned char* mapping_;
  unsigned char* begin_;
  int64_t size_;
  int64_t mapped_;
};

}  // namespace torchbn::test
