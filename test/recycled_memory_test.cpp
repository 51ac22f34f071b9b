#include "recycled_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "outputs.h"

namespace torchbn {
namespace {

constexpr size_t kMib = size_t{1} << 20;

class RecycledMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (recycled_memory().limit == 0) GTEST_SKIP() << "this kernel can't be given memory back so";
    // As many blocks as are kept at most push everything else out, and are taken.
    take_most();
    taken_.clear();
    ASSERT_EQ(recycled_memory().blocks, kMostBlocks);
    take_most();
    ASSERT_EQ(recycled_memory().blocks, 0);
  }

  static c10::DataPtr allocate(size_t bytes) { return recycling_allocator().allocate(bytes); }

  static constexpr size_t kMostBlocks = 512;

 private:
  void take_most() {
    while (taken_.size() < kMostBlocks) taken_.push_back(allocate(kLeastRecycled));
  }

  std::vector<c10::DataPtr> taken_;
};

TEST_F(RecycledMemoryTest, TheNextOutputOfAboutTheSizeGetsTheBlock) {
  for (size_t bytes : {32 * kMib, 32 * kMib - 4096, 29 * kMib}) {
    c10::DataPtr first = allocate(32 * kMib);
    const void* const begin = first.get();
    std::memset(first.get(), 1, 32 * kMib);
    first.clear();
    EXPECT_EQ(recycled_memory().blocks, 1);
    EXPECT_GE(recycled_memory().bytes, 32 * kMib);
    const c10::DataPtr second = allocate(bytes);
    EXPECT_EQ(second.get(), begin) << bytes;
    EXPECT_EQ(recycled_memory().blocks, 0);
    EXPECT_EQ(recycled_memory().bytes, 0);
    std::memset(second.get(), 2, bytes);
  }
}

TEST_F(RecycledMemoryTest, SoDoesASmallOne) {
  const std::pair<size_t, size_t> sizes[] = {{kLeastRecycled, kLeastRecycled},
                                             {kLeastRecycled + 4160, kLeastRecycled + 64},
                                             {900'000, 800'000},
                                             {2 * kMib - 1, 2 * kMib - 200'000}};
  for (const auto& [first_bytes, second_bytes] : sizes) {
    const size_t others = recycled_memory().blocks;
    c10::DataPtr first = allocate(first_bytes);
    const void* const begin = first.get();
    std::memset(first.get(), 1, first_bytes);
    first.clear();
    EXPECT_EQ(recycled_memory().blocks, others + 1);
    const c10::DataPtr second = allocate(second_bytes);
    EXPECT_EQ(second.get(), begin) << first_bytes;
    EXPECT_EQ(recycled_memory().blocks, others);
    std::memset(second.get(), 2, second_bytes);
  }
}

TEST_F(RecycledMemoryTest, OthersDoNot) {
  for (size_t size : {32 * kMib, kMib}) {
    const size_t before = recycled_memory().blocks;
    c10::DataPtr kept = allocate(size);
    const void* const begin = kept.get();
    kept.clear();
    for (size_t bytes : {size / 8 * 5, size / 8 * 9}) {
      const c10::DataPtr other = allocate(bytes);
      EXPECT_NE(other.get(), begin) << bytes;
      EXPECT_EQ(recycled_memory().blocks, before + (bytes < size ? 1 : 2));
    }
    EXPECT_EQ(recycled_memory().blocks, before + 3);
  }
}

TEST_F(RecycledMemoryTest, TwoAtOnceHaveMemoryOfTheirOwn) {
  c10::DataPtr first = allocate(8 * kMib);
  c10::DataPtr second = allocate(8 * kMib);
  EXPECT_NE(first.get(), second.get());
  const void* const begin = first.get();
  second.clear();
  first.clear();
  EXPECT_EQ(allocate(8 * kMib).get(), begin);  // the latest, not the oldest
}

TEST_F(RecycledMemoryTest, SmallerOutputsAreTorchsOwn) {
  for (size_t bytes : {size_t{0}, size_t{1}, kLeastRecycled - 1}) allocate(bytes);
  EXPECT_EQ(recycled_memory().blocks, 0);
}

TEST_F(RecycledMemoryTest, TheOldestMakeRoom) {
  const size_t limit = recycled_memory().limit;
  std::vector<c10::DataPtr> blocks;
  for (int i = 0; i < 7; ++i) blocks.push_back(allocate(limit / 4 - 4 * kMib));
  const void* const last = blocks.back().get();
  for (c10::DataPtr& block : blocks) {
    block.clear();
    EXPECT_LE(recycled_memory().bytes, limit);
  }
  EXPECT_EQ(recycled_memory().blocks, 4);
  EXPECT_EQ(allocate(limit / 4 - 4 * kMib).get(), last);
  allocate(2 * limit);
  EXPECT_EQ(recycled_memory().blocks, 4);
}

TEST_F(RecycledMemoryTest, FewEnoughAreKeptToBeFoundQuickly) {
  std::vector<c10::DataPtr> blocks;
  for (size_t i = 0; i < kMostBlocks + 88; ++i) blocks.push_back(allocate(kLeastRecycled));
  const void* const last = blocks.back().get();
  for (c10::DataPtr& block : blocks) block.clear();
  EXPECT_EQ(recycled_memory().blocks, kMostBlocks);
  EXPECT_EQ(allocate(kLeastRecycled).get(), last);
}

// Memory of this process that the kernel may take as it likes.
size_t given_up_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("LazyFree:")) return std::stoull(line.substr(9)) << 10;
  return 0;
}

TEST_F(RecycledMemoryTest, WhatIsNotInUseAllTheTimeIsTheKernels) {
  const size_t limit = recycled_memory().limit;
  const size_t before = given_up_bytes();
  const size_t bytes = limit / 8;
  std::array<c10::DataPtr, 6> blocks;
  for (c10::DataPtr& block : blocks) block = allocate(bytes);
  for (int i : {0, 1}) std::memset(blocks[i].get(), 1, bytes);
  blocks[0].clear();
  EXPECT_EQ(given_up_bytes(), before);
  for (c10::DataPtr& block : blocks) block.clear();
  EXPECT_EQ(given_up_bytes() - before, 2 * bytes);
  // What is in use again is not.
  for (c10::DataPtr& block : blocks) block = allocate(bytes);
  for (c10::DataPtr& block : blocks) std::memset(block.get(), 2, bytes);
  EXPECT_EQ(given_up_bytes(), before);
}

TEST_F(RecycledMemoryTest, ThreadsShareIt) {
  constexpr size_t kBytes = 4 * kMib;
  std::array<bool, 4> intact = {};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < intact.size(); ++t) {
    threads.emplace_back([t, &intact] {
      bool mine = true;
      for (int round = 0; round < 50; ++round) {
        const c10::DataPtr block = allocate(kBytes);
        auto* const bytes = static_cast<unsigned char*>(block.get());
        for (size_t i = 0; i < kBytes; i += 4096) bytes[i] = static_cast<unsigned char>(t);
        std::this_thread::yield();
        for (size_t i = 0; i < kBytes; i += 4096) mine = mine && bytes[i] == t;
      }
      intact[t] = mine;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (bool mine : intact) EXPECT_TRUE(mine);
}

TEST_F(RecycledMemoryTest, OutputsAreLikeAnyOther) {
  const at::Tensor whole = at::empty({4, 6, 512, 520});
  for (const at::Tensor& input :
       {whole, whole.contiguous(at::MemoryFormat::ChannelsLast), whole.permute({2, 1, 0, 3}),
        whole.slice(3, 0, 500), whole.to(at::kHalf), whole[0].transpose(0, 1)}) {
    const at::Tensor output = allocate_forward(input).output;
    EXPECT_EQ(output.storage().allocator(), &recycling_allocator());
    const at::Tensor expected = at::empty_like(input);
    EXPECT_EQ(output.sizes(), expected.sizes());
    EXPECT_EQ(output.strides(), expected.strides());
    EXPECT_EQ(output.options().dtype(), expected.options().dtype());
    EXPECT_EQ(output.storage().nbytes(), expected.storage().nbytes());
    output.fill_(3);
    EXPECT_TRUE(at::_lazy_clone(output).eq(3).all().item<bool>());
    output.resize_({2 * output.numel()});
    EXPECT_TRUE(output.slice(0, 0, input.numel()).eq(3).all().item<bool>());
  }
}

}  // namespace
}  // namespace torchbn
