// The CUDA kernels as they are, all of csrc/cuda's .cu files, on a simulated device: launches,
// barriers, exchanges between lanes, workspace. See simulated/device.h.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <stdexcept>
#include <vector>

#include "cuda/simulated/races.h"
#include "cuda/simulated_call.h"
#include "cuda/split_policy.h"

namespace torchbn::test {
namespace {

// One multiprocessor makes few splits and long walks; a small grid makes blocks take several units;
// many multiprocessors make as many splits as there can be.
constexpr cuda::DeviceLimits kDevices[] = {{1}, {3, 5}, {132}};

class SimulatedKernels : public KernelTest {
 protected:
  void check_all(const std::vector<std::array<int64_t, 3>>& shapes) {
    for (const auto& [batch, channels, spatial] : shapes)
      for (const cuda::DeviceLimits& device : kDevices)
        check_simulated(extent(batch, channels, spatial), dtype(), device);
  }
};
INSTANTIATE_TEST_SUITE_P(All, SimulatedKernels, every_layout_and_dtype(), name_of_kernel_test);

TEST_P(SimulatedKernels, FewValues) {
  check_all({{2, 1, 1}, {1, 1, 2}, {2, 3, 1}, {1, 5, 3}, {3, 2, 4}, {2, 9, 8}});
}

// One value less and more than full vectors, than a block's threads, than a round of vectors.
TEST_P(SimulatedKernels, Tails) {
  check_all({{1, 1, 1023}, {1, 1, 1025}, {1, 2, 257}, {5, 1, 31}, {3, 3, 33}, {2, 5, 129}});
}

// Planes that are no, half and whole vectors.
TEST_P(SimulatedKernels, Planes) {
  check_all({{33, 3, 49}, {9, 3, 196}, {2, 3, 3136}, {3, 40, 16}, {11, 24, 101}});
}

// Several parts per channel, merged by 2 to 32 lanes; blocks that take several of them.
TEST_P(SimulatedKernels, ManyParts) {
  check_all({{1, 1, 40000}, {3, 2, 4099}});
}

// More parts than the lanes that merge them.
TEST_P(SimulatedKernels, MorePartsThanLanes) {
  const int64_t rows = 1200001 / static_cast<int64_t>(size_of(dtype()));
  const Extent e = extent(1, 1, layout() == Layout::kChannelsFirst ? 50001 : rows);
  const cuda::DeviceLimits device{20, 40};
  ASSERT_GT(cuda::split_policy(e, dtype(), true, device).parts, 32);
  check_simulated(e, dtype(), device);
}

// Several tiles of channels, the last of them not full, and more channels than finishing threads.
TEST_P(SimulatedKernels, ManyChannels) {
  check_all({{4, 65, 9}, {2, 300, 4}});
  if (layout() == Layout::kChannelsLast) check_all({{900, 129, 1}, {3, 1001, 11}, {2, 512, 17}});
}

TEST_P(SimulatedKernels, EverySubsetOfGradients) {
  for (const bool training : {true, false}) {
    const Extent e = extent(4, 6, 50);
    SimulatedCall all(e, dtype(), normal(e.numel(), 3, 2, 1));
    all.device = kDevices[1];
    all.train();
    const SimulatedCall before = all;
    all.backward(training);
    for (int subset = 0; subset < 8; ++subset) {
      SimulatedCall some = before;
      some.backward(training, subset & 1, subset & 2, subset & 4);
      EXPECT_TRUE(some.dx.same_bits(subset & 1 ? all.dx : before.dx)) << subset;
      EXPECT_TRUE(some.dw.same_bits(subset & 2 ? all.dw : before.dw)) << subset;
      EXPECT_TRUE(some.db.same_bits(subset & 4 ? all.db : before.db)) << subset;
    }
  }
}

// In evaluation, the kernel that sums up makes the same bits of the input's gradient that a kernel
// of its own makes.
TEST_P(SimulatedKernels, EvaluationMapsWhatItSums) {
  simulated::set_order(Order::kShuffled);
  std::vector<std::array<int64_t, 3>> shapes = {{1, 1, 1},    {2, 3, 1},    {1, 5, 3},
                                                {3, 2, 4},    {2, 9, 8},    {3, 3, 49},
                                                {1, 1, 1025}, {2, 2, 4099}, {2, 300, 4}};
  if (layout() == Layout::kChannelsLast) shapes.push_back({900, 129, 1});
  for (size_t i = 0; i < shapes.size(); ++i) {
    const auto& [batch, channels, spatial] = shapes[i];
    const Extent e = extent(batch, channels, spatial);
    SCOPED_TRACE(testing::Message() << describe(e, dtype()));
    SimulatedCall before(e, dtype(), normal(e.numel(), 3, 2, 1));
    before.device = kDevices[i % 2];
    before.inference();
    const auto launches = [](SimulatedCall& call, int subset) {
      const int earlier = simulated::launches();
      call.backward(false, subset & 1, subset & 2, subset & 4);
      return simulated::launches() - earlier;
    };
    for (int subset = 1; subset < 8; ++subset) {
      SimulatedCall split = before, together = before;
      together.choice = cuda::KernelChoice::kAuto;
      const bool maps_and_sums = subset & 1 && subset != 1;
      EXPECT_EQ(launches(split, subset) - launches(together, subset), maps_and_sums ? 1 : 0);
      EXPECT_EQ(together.policy.maps_while_summing, maps_and_sums);
      EXPECT_TRUE(together.same_bits(split)) << subset;
    }
  }
}

// The barriers of split kernels, whose shared memory is of a fixed size. Blocks take several units.
TEST(SplitWaits, AreMissedWhereTheyAreLeftOut) {
  simulated::set_order(Order::kForward);
  for (const Layout layout : {Layout::kChannelsFirst, Layout::kChannelsLast}) {
    SimulatedCall call(extent_of(100, 9, 31, layout), DType::kFloat32,
                       normal(100 * 9 * 31, 3, 2, 1));
    call.device = {2, 2};
    call.train();
    const std::function<void(SimulatedCall)> passes[] = {
        [](SimulatedCall of) { of.train(); },
        [](SimulatedCall of) { of.backward(true); },
        [](SimulatedCall of) { of.backward(false, true, false, false); },
    };
    for (const auto& pass : passes)
      for (int nth = 0; nth < 5; ++nth) {
        const simulated::RaceWatch watch;
        pass(call);
        const simulated::WithoutWait without(simulated::Wait::kForBlock, nth);
        EXPECT_THROW(pass(call), simulated::Race) << "wait " << nth;
      }
  }
}

// The simulation itself notices threads that wait for others in vain.
TEST(SimulatedDevice, EndsWhereThreadsWaitForEver) {
  simulated::set_order(Order::kForward);
  EXPECT_THROW(simulated::run({.block = 64,
                               .kernel =
                                   [] {
                                     if (threadIdx.x != 5) __syncthreads();
                                   }}),
               std::logic_error);
  EXPECT_THROW(simulated::run({.block = 64,
                               .kernel =
                                   [] {
                                     if (threadIdx.x != 40) __shfl_down_sync(0xffffffffu, 1, 1, 32);
                                   }}),
               std::logic_error);
}

TEST(SimulatedDevice, LanesGetWhatTheLaneFurtherOnHas) {
  std::array<int, 64> got{};
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    simulated::set_order(order);
    simulated::run({.block = 64, .kernel = [&] {
                      const int thread = static_cast<int>(threadIdx.x);
                      got[threadIdx.x] = __shfl_down_sync(0xffffffffu, thread, 4, 8);
                    }});
    for (int i = 0; i < 64; ++i)
      ASSERT_EQ(got[static_cast<size_t>(i)], i % 8 < 4 ? i + 4 : i) << "thread " << i;
  }
}

TEST(SimulatedDevice, CopiesLandWhenTheyAreWaitedFor) {
  const std::array<float, 4> from{1, 2, 3, 4};
  const auto kernel = [&] {
    if (threadIdx.x != 0) return;
    auto* const shared = static_cast<float*>(simulated::dynamic_shared());
    for (int i = 0; i < 4; ++i) {
      simulated::copy_later(shared + i, &from[static_cast<size_t>(i)], 4);
      if (i < 3) simulated::commit_copies();
    }
    ASSERT_TRUE(std::isnan(shared[0]));
    simulated::wait_for_copies(1);
    ASSERT_EQ(shared[1], 2);
    ASSERT_TRUE(std::isnan(shared[2]));
    simulated::commit_copies();
    simulated::wait_for_copies(0);
    ASSERT_EQ(shared[3], 4);
  };
  simulated::run({.dynamic_shared = 64, .kernel = kernel});
}

TEST(SimulatedDevice, NobodyTouchesWhatIsBeingCopied) {
  const simulated::RaceWatch watch;
  simulated::set_order(Order::kForward);
  const std::array<float, 2> from{};
  const auto read_by_another = [&](int when) {
    simulated::run({.dynamic_shared = 64, .kernel = [&] {
                      void* const shared = simulated::dynamic_shared();
                      for (int time = 0; time < 3; ++time) {
                        if (time == when && threadIdx.x == 1)
                          simulated::note_access(shared, 4, false);
                        if (time == 0 && threadIdx.x == 0) {
                          simulated::copy_later(shared, from.data(), 4);
                          simulated::commit_copies();
                        }
                        if (time > 0) simulated::wait_for_block();
                        if (time == 1) simulated::wait_for_copies(0);
                      }
                    }});
  };
  EXPECT_THROW(read_by_another(0), simulated::Race);  // before it lands: nothing waits for the read
  EXPECT_THROW(read_by_another(1), simulated::Race);
}

TEST(SimulatedDevice, BlocksOfAClusterReadEachOther) {
  std::array<int, 128> got{};
  const auto kernel = [&] {
    auto* const shared = static_cast<int*>(simulated::dynamic_shared()) + threadIdx.x;
    *shared = static_cast<int>(blockIdx.x * 32 + threadIdx.x);
    simulated::arrive_at_cluster();
    simulated::wait_for_cluster();
    const unsigned other = 1 - simulated::rank_in_cluster();
    got[blockIdx.x * 32 + threadIdx.x] =
        *static_cast<int*>(simulated::shared_of_rank(shared, other));
    simulated::arrive_at_cluster();
    simulated::wait_for_cluster();
  };
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    simulated::set_order(order);
    simulated::run({.grid = 4, .dynamic_shared = 32 * sizeof(int), .cluster = 2, .kernel = kernel});
    for (int i = 0; i < 128; ++i) ASSERT_EQ(got[static_cast<size_t>(i)], i ^ 32);
  }
}

// What threads do that are 0 and 33 in their blocks: a warp's do so at once, too.
TEST(SimulatedDevice, NoticesRaces) {
  simulated::set_order(Order::kForward);
  const auto run = [](unsigned grid, unsigned cluster,
                      const std::function<void(bool, unsigned char*)>& thread) {
    const simulated::RaceWatch watch;
    const auto kernel = [&] {
      if (threadIdx.x == 0 || threadIdx.x == 33)
        thread(threadIdx.x == 0, static_cast<unsigned char*>(simulated::dynamic_shared()));
      else
        thread(false, nullptr);
    };
    simulated::run(
        {.grid = grid, .block = 64, .dynamic_shared = 64, .cluster = cluster, .kernel = kernel});
  };
  using Bytes = unsigned char*;
  unsigned char global[64] = {};
  const auto access = [](const void* memory, bool writes) {
    if (memory != nullptr) simulated::note_access(memory, 4, writes);
  };
  // Reads are no race, nor is what lies beside each other.
  run(2, 1, [&](bool, Bytes) { access(global, false); });
  run(1, 1, [&](bool first, Bytes shared) {
    access(shared == nullptr ? shared : shared + (first ? 0 : 4), true);
  });
  // Of a block, in any order, unless a barrier lies between.
  for (const bool writes_first : {false, true}) {
    const auto one_writes = [&](bool first, Bytes shared) {
      access(shared, first == writes_first);
    };
    EXPECT_THROW(run(1, 1, one_writes), simulated::Race);
    run(1, 1, [&](bool first, Bytes shared) {
      if (first) access(shared, writes_first);
      simulated::wait_for_block();
      if (!first) access(shared, !writes_first);
    });
  }
  // Of blocks: never at peace in global memory, but each has its own shared memory.
  const auto firsts_write = [&](bool first, Bytes) { access(first ? global : nullptr, true); };
  EXPECT_THROW(run(2, 1, firsts_write), simulated::Race);
  run(1, 1, firsts_write);
  run(2, 1, [&](bool first, Bytes shared) { access(first ? shared : nullptr, true); });
  // The first block's read is not forgotten for later ones.
  EXPECT_THROW(run(2, 1,
                   [&](bool first, Bytes shared) {
                     if (shared != nullptr) access(global, false);
                     if (blockIdx.x == 0) return;
                     simulated::wait_for_block();
                     if (first) access(global, true);
                   }),
               simulated::Race);
  // Of blocks of a cluster, whose barrier keeps them apart, and of other clusters.
  const auto in_turns = [&](bool first, Bytes) {
    if (first && simulated::rank_in_cluster() == 0) access(global, true);
    simulated::arrive_at_cluster();
    if (first && simulated::rank_in_cluster() == 0) access(global + 8, true);
    simulated::wait_for_cluster();
    if (first && simulated::rank_in_cluster() == 1) access(global, false);
  };
  run(2, 2, in_turns);
  EXPECT_THROW(run(4, 2, in_turns), simulated::Race);
  EXPECT_THROW(run(2, 2,
                   [&](bool first, Bytes shared) {
                     in_turns(first, shared);
                     // Written after the other had arrived.
                     if (first && simulated::rank_in_cluster() == 1) access(global + 8, false);
                   }),
               simulated::Race);
}

TEST(SimulatedDevice, NoticesMisuseOfSharedMemory) {
  simulated::set_order(Order::kForward);
  const auto run = [](unsigned cluster, const std::function<void(unsigned char*)>& kernel) {
    const auto of_thread = [&] {
      if (threadIdx.x == 0) kernel(static_cast<unsigned char*>(simulated::dynamic_shared()));
    };
    simulated::run(
        {.grid = cluster, .dynamic_shared = 64, .cluster = cluster, .kernel = of_thread});
  };
  alignas(16) static const unsigned char from[32] = {};
  using Bytes = unsigned char*;
  EXPECT_THROW(run(1, [](Bytes shared) { shared[64] = 0; }), std::out_of_range);
  EXPECT_THROW(run(1, [](Bytes shared) { shared[-1] = 0; }), std::out_of_range);
  EXPECT_THROW(run(1, [](Bytes shared) { simulated::copy_later(shared + 64, from, 4); }),
               std::out_of_range);
  EXPECT_THROW(run(1, [](Bytes shared) { simulated::copy_later(shared + 4, from, 16); }),
               std::invalid_argument);
  EXPECT_THROW(run(1, [](Bytes shared) { simulated::copy_later(shared, from, 2); }),
               std::invalid_argument);
  EXPECT_THROW(run(1, [](Bytes shared) { simulated::copy_later(shared, from, 4); }),
               std::logic_error);
  // The first block has ended when the second one reads.
  EXPECT_THROW(run(2, [](Bytes shared) { simulated::shared_of_rank(shared, 0); }),
               std::logic_error);
  EXPECT_THROW(run(2, [](Bytes shared) { simulated::shared_of_rank(shared, 2); }),
               std::out_of_range);
  EXPECT_THROW(run(2,
                   [](Bytes) {
                     simulated::arrive_at_cluster();
                     simulated::wait_for_cluster();
                   }),
               std::logic_error);
}

}  // namespace
}  // namespace torchbn::test
