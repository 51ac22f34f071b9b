// The resident and cooperative kernels as they are on a simulated device, whose clusters run
// interleaved and whose copies to shared memory land late. See simulated/device.h.

#include <gtest/gtest.h>

#include <array>
#include <stdexcept>
#include <vector>

#include "cuda/rounds.h"
#include "cuda/simulated_call.h"

namespace torchbn::test {
namespace {

using cuda::KernelChoice;
using simulated::Wait;

// Asks for clusters of `cluster` blocks by having more multiprocessors than can be filled, and room
// for every test's shape.
cuda::DeviceLimits with_cluster(int cluster) {
  cuda::DeviceLimits device{1000};
  device.shared_per_block = 4 << 20;
  device.shared_per_multiprocessor = 8 << 20;
  device.max_cluster = cluster;
  return device;
}

SimulatedCall resident_call(const Extent& e, DType dtype, int cluster, double mean = 3) {
  SimulatedCall call(e, dtype, normal(e.numel(), mean, 2, 1));
  call.device = with_cluster(cluster);
  call.choice = KernelChoice::kResident;
  return call;
}

// Trains and makes all gradients, and then every subset of them: to the same bits where the same
// kernel makes them, for the input's gradient or without it.
void check_subsets(SimulatedCall& all) {
  simulated::set_order(Order::kForward);
  all.train();
  const SimulatedCall before = all;
  all.backward(true);
  SimulatedCall summed = before, evaluated = before;
  summed.backward(true, false);
  evaluated.backward(false);
  const cuda::OnChipLaunch& used = all.policy.on_chip;
  ASSERT_TRUE(used.used());
  for (int subset = 0; subset < 8; ++subset) {
    SimulatedCall some = before;
    some.backward(true, subset & 1, subset & 2, subset & 4);
    // Without it nothing is read twice: clusters sum up, and instead of teams the split kernels.
    EXPECT_EQ(some.policy.on_chip.cluster, subset != 0 ? used.cluster : 0);
    EXPECT_EQ(some.policy.on_chip.team, subset & 1 ? used.team : 0);
    const SimulatedCall& whole = subset & 1 ? all : summed;
    EXPECT_TRUE(some.dx.same_bits(subset & 1 ? whole.dx : before.dx)) << subset;
    EXPECT_TRUE(some.dw.same_bits(subset & 2 ? whole.dw : before.dw)) << subset;
    EXPECT_TRUE(some.db.same_bits(subset & 4 ? whole.db : before.db)) << subset;

    // In evaluation the kernel that sums up is always the same.
    some = before;
    some.backward(false, subset & 1, subset & 2, subset & 4);
    EXPECT_TRUE(some.dx.same_bits(subset & 1 ? evaluated.dx : before.dx)) << subset;
    EXPECT_TRUE(some.dw.same_bits(subset & 2 ? summed.dw : before.dw)) << subset;
    EXPECT_TRUE(some.db.same_bits(subset & 4 ? summed.db : before.db)) << subset;
  }
}

class ResidentKernels : public KernelTest {
 protected:
  // Shapes take turns having a constant momentum.
  void check_all(int cluster, const std::vector<std::array<int64_t, 3>>& shapes) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      const auto& [batch, channels, spatial] = shapes[i];
      SimulatedCall call = resident_call(extent(batch, channels, spatial), dtype(), cluster);
      call.cumulative = i % 2 == 0;
      check_simulated(call);
      call.train();
      EXPECT_EQ(call.policy.on_chip.cluster, cluster) << describe(call.extent, dtype());
    }
  }
};
INSTANTIATE_TEST_SUITE_P(All, ResidentKernels, every_layout_and_dtype(), name_of_kernel_test);

// One channel, two values, odd planes and channel counts, a last group of channels that is short.
TEST_P(ResidentKernels, BlocksOfTheirOwn) {
  check_all(1, {{2, 1, 1},
                {1, 1, 2},
                {2, 3, 1},
                {1, 5, 3},
                {3, 2, 4},
                {2, 9, 8},
                {1, 1, 1023},
                {1, 1, 1025},
                {3, 3, 49},
                {2, 33, 49},
                {300, 5, 1},
                {4, 40, 9},
                {2, 136, 4},
                {2, 8, 196}});
}

// Neighbouring planes that are no whole vectors: one tile of them and several, the last one short,
// planes shorter and longer than a warp, a cluster.
TEST_P(ResidentKernels, TilesOfPlanes) {
  if (layout() != Layout::kChannelsFirst) return;
  const auto check = [&](int cluster, int64_t multiprocessors, int64_t batch, int64_t channels,
                         int64_t spatial) {
    SimulatedCall call = resident_call(extent(batch, channels, spatial), dtype(), cluster);
    call.device.multiprocessors = multiprocessors;
    check_simulated(call);
    call.train();
    EXPECT_EQ(call.policy.on_chip.cluster, cluster);
    EXPECT_EQ(call.policy.layout, Layout::kChannelsLast);
  };
  check(1, 1, 3, 8, 49);
  check(1, 1, 2, 40, 7);
  check(1, 1, 7, 24, 9);
  check(1, 1, 2, 16, 225);
  check(1, 1, 300, 8, 3);
  // As many multiprocessors as two blocks for each of the smallest tiles fill.
  check(2, 8 / cuda::width_across(size_of(dtype())) * 2, 52, 8, 49);
}

// Two blocks to eight share a channel, or a tile of channels, evenly or not.
TEST_P(ResidentKernels, Clusters) {
  check_all(2, {{1, 1, 16411}, {67, 3, 129}, {2100, 33, 1}, {4, 5, 4096}, {1, 40, 2099}});
  check_all(4, {{1, 1, 32771}});
  check_all(8, {{33, 2, 3136}});
}

TEST_P(ResidentKernels, EverySubsetOfGradients) {
  for (const int cluster : {1, 2}) {
    SimulatedCall call = resident_call(extent(36, 2, 1000), dtype(), cluster);
    check_subsets(call);
    EXPECT_EQ(call.policy.on_chip.cluster, cluster);
  }
}

TEST_P(ResidentKernels, OneLaunchPerDirection) {
  SimulatedCall call = resident_call(extent(8, 6, 100), dtype(), 1);
  call.cumulative = false;
  const auto launches = [](auto&& work) {
    const int before = simulated::launches();
    work();
    return simulated::launches() - before;
  };
  EXPECT_EQ(launches([&] { call.train(); }), 1);
  EXPECT_EQ(launches([&] { call.backward(true); }), 1);
  EXPECT_EQ(launches([&] { call.backward(true, false); }), 1);
  EXPECT_EQ(launches([&] { call.backward(false); }), 1);
  // The counter tells all channels the momentum, and advances when they have read it.
  call.cumulative = true;
  EXPECT_EQ(launches([&] { call.train(); }), 2);
  EXPECT_EQ(call.counter, 6);
}

TEST_P(ResidentKernels, VarianceHoldsFarFromZero) {
  if (size_of(dtype()) == 2) return;  // neighbours of 1e6 are too far apart
  for (const int cluster : {1, 4}) {
    SimulatedCall call = resident_call(extent(33, 3, 999), dtype(), cluster, 2e6);
    call.eps = 0;
    call.train();
    ASSERT_EQ(call.policy.on_chip.cluster, cluster);
    const Doubles x = call.x.values();
    const Reference expected(call.extent, x, 0);
    for (int64_t c = 0; c < 3; ++c)
      EXPECT_NEAR(std::pow(expected.invstd[c] / call.save_invstd[c], 2), 1, 1e-6);
    call.expect_near(call.y, call.normalized(call.save_mean, call.save_invstd), 8, "y");
  }
}

TEST_P(ResidentKernels, ConstantChannelsBecomeTheirBias) {
  for (const int cluster : {1, 2}) {
    const Extent e = extent(36, 3, 1000);
    SimulatedCall call = resident_call(e, dtype(), cluster);
    call.x = Buffer(dtype(), Doubles(static_cast<size_t>(e.numel()), 3e4));
    call.train();
    for (int64_t i = 0; i < e.numel(); ++i) ASSERT_EQ(call.y[i], call.b[channel_of(e, i)]);
  }
}

// A device of `multiprocessors` that hold two blocks of some `room` bytes each, beside what is left
// to loads.
cuda::DeviceLimits with_teams(int64_t multiprocessors, int64_t room) {
  cuda::DeviceLimits device{multiprocessors};
  device.shared_per_block = room + (16 << 10);
  device.shared_per_multiprocessor = 2 * (device.shared_per_block + 1024);
  return device;
}

SimulatedCall cooperative_call(const Extent& e, DType dtype, int64_t multiprocessors,
                               int64_t room) {
  SimulatedCall call(e, dtype, normal(e.numel(), 3, 2, 1));
  call.device = with_teams(multiprocessors, room);
  call.choice = KernelChoice::kCooperative;
  return call;
}

class CooperativeKernels : public KernelTest {
 protected:
  // Checks a shape with a constant and a cumulative momentum, in how many rounds it is done, and
  // whether blocks keep all that they read, forward and backward.
  void check(const std::array<int64_t, 3>& shape, int64_t multiprocessors, int64_t room,
             int64_t rounds, const std::array<bool, 2>& keeps_all) {
    const Extent e = extent(shape[0], shape[1], shape[2]);
    for (const bool cumulative : {false, true}) {
      SimulatedCall call = cooperative_call(e, dtype(), multiprocessors, room);
      call.cumulative = cumulative;
      check_simulated(call);
      const auto expect = [&](bool keeps) {
        const cuda::LaunchPolicy& policy = call.policy;
        EXPECT_LE(policy.on_chip.team * policy.on_chip.teams, 2 * multiprocessors);
        EXPECT_EQ(rounds_of(policy), rounds) << describe(e, dtype());
        EXPECT_EQ(policy.on_chip.slots == thread_vectors_of(policy), keeps) << describe(e, dtype());
      };
      call.train();
      expect(keeps_all[0]);
      call.backward(true);
      expect(keeps_all[1]);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(All, CooperativeKernels, every_layout_and_dtype(), name_of_kernel_test);

// One channel and several, with a team each; odd planes; a tensor that ends within a vector.
TEST_P(CooperativeKernels, AllAtOnce) {
  constexpr int64_t kEnough = 1 << 20;
  check({1, 1, 16411}, 3, kEnough, 1, {true, true});
  check({33, 3, 129}, 3, kEnough, 1, {true, true});
  check({2, 1, 1}, 1, kEnough, 1, {true, true});
  check({3, 5, 49}, 3, kEnough, 1, {true, true});
  check({300, 5, 4}, 4, kEnough, 1, {true, true});
}

// Blocks that keep a part of what they read, or nothing of it. A tensor that ends within a vector.
TEST_P(CooperativeKernels, WhatDoesNotFitIsReadAgain) {
  const auto bytes = static_cast<int64_t>(size_of(dtype()));
  const int64_t of_sums = layout() == Layout::kChannelsFirst ? 128 : 9 << 10;
  // Four blocks for a channel of 160 KiB, or for all of them.
  check({5, 1, 32768 / bytes}, 2, of_sums + (24 << 10), 1, {false, false});
  check({5, 1, 32768 / bytes}, 2, of_sums + (48 << 10), 1, {true, false});
  check({5, 1, 32768 / bytes}, 2, of_sums + 64, 1, {false, false});
  check({5, 3, 32768 / bytes + 3}, 2, of_sums + (16 << 10), 1, {false, false});
  check({7, 3, 49 * 64 / bytes}, 2, of_sums + (6 << 10), 1, {false, false});
}

// More groups than blocks: all teams have one in the last round, or some have none.
TEST_P(CooperativeKernels, InRounds) {
  if (layout() == Layout::kChannelsFirst) {
    check({3, 9, 64}, 2, 1 << 20, 3, {true, true});
    check({3, 8, 64}, 2, 1 << 20, 2, {true, true});
    check({9, 5, 4096}, 1, 8 << 10, 3, {false, false});
    return;
  }
  // Tiles of 32 vectors.
  const int64_t tile = 32 * cuda::width_across(size_of(dtype()));
  check({40, 3 * tile, 2}, 1, 1 << 20, 2, {true, true});
}

TEST_P(CooperativeKernels, EverySubsetOfGradients) {
  SimulatedCall call = cooperative_call(extent(36, 2, 1000), dtype(), 2, 4 << 20);
  check_subsets(call);
  EXPECT_GT(call.policy.on_chip.team, 0);
}

TEST_P(CooperativeKernels, OneLaunchPerDirection) {
  for (const bool cumulative : {false, true}) {
    SimulatedCall call = cooperative_call(extent(8, 6, 100), dtype(), 4, 1 << 20);
    call.cumulative = cumulative;
    const int before = simulated::launches();
    call.train();
    EXPECT_EQ(simulated::launches(), before + 1);
    call.backward(true);
    EXPECT_EQ(simulated::launches(), before + 2);
    EXPECT_EQ(call.counter, 5);
  }
}

enum class Pass { kTraining, kItsBackward, kEvaluationsBackward };

void run(SimulatedCall& call, Pass pass) {
  if (pass == Pass::kTraining)
    call.train();
  else
    call.backward(pass == Pass::kItsBackward);
}

constexpr Order kOrders[] = {Order::kForward, Order::kBackward, Order::kShuffled};

// Is there a race, or a block that misses another one's memory?
bool finds_race(SimulatedCall call, Pass pass, Order order, Wait wait, int nth) {
  const simulated::RaceWatch watch;
  const simulated::WithoutWait without(wait, nth);
  simulated::set_order(order);
  try {
    run(call, pass);
  } catch (const simulated::Race&) {
    return true;
  } catch (const std::logic_error& error) {
    EXPECT_STREQ(error.what(), "that block has ended, and its memory is gone");
    return true;
  }
  return false;
}

// The named waits of a kernel are needed: with one of them left out, results change, depend on who
// is first, or the device notices. In the given order it finds a race, where no memory is missed.
void expect_needed(SimulatedCall call, Pass pass, Wait wait, const std::vector<int>& needed,
                   Order racing = Order::kForward) {
  simulated::set_order(Order::kForward);
  if (pass != Pass::kTraining) call.train();
  SimulatedCall right = call;
  run(right, pass);
  ASSERT_TRUE(right.policy.on_chip.used());
  for (const int nth : needed) {
    bool noticed = false;
    for (const Order order : kOrders) {
      simulated::set_order(order);
      const simulated::WithoutWait without(wait, nth);
      SimulatedCall wrong = call;
      try {
        run(wrong, pass);
        noticed |= !wrong.same_bits(right);
      } catch (const std::logic_error&) {
        noticed = true;
      }
    }
    SCOPED_TRACE(testing::Message()
                 << describe(call.extent, call.dtype) << ", pass " << static_cast<int>(pass)
                 << ": wait " << nth << " of kind " << static_cast<int>(wait));
    EXPECT_TRUE(noticed);
    EXPECT_TRUE(wait == Wait::kForCopies || finds_race(call, pass, racing, wait, nth));
  }
}

TEST(OnChipWaits, AreAllNeeded) {
  for (const Pass pass : {Pass::kTraining, Pass::kItsBackward}) {
    // A block alone: before the warps' sums are merged, and before values are transformed. What
    // lies between them keeps apart what only the first thread does here.
    const SimulatedCall first = resident_call({8, 2, 999}, DType::kFloat32, 1);
    expect_needed(first, pass, Wait::kForBlock, {0, 3});
    expect_needed(first, pass, Wait::kForCopies, {0});
    // Before the upper half of the stack is added, and the half of that; before the channels are
    // finished, and their values transformed.
    const SimulatedCall last = resident_call({8 * 99, 40, 1}, DType::kBFloat16, 1);
    expect_needed(last, pass, Wait::kForBlock, {0, 1, 2});
    expect_needed(last, pass, Wait::kForCopies, {0});
    // Planes' values are added when the stack is merged; this one's three rows are merged to two by
    // threads that need nothing of each other.
    SimulatedCall planes = resident_call({25, 8, 49}, DType::kBFloat16, 1);
    planes.device.multiprocessors = 1;
    expect_needed(planes, pass, Wait::kForBlock, {0, 1, 3, 4, 5});
    // Before the blocks' sums are read, and before a block ends whose sums others still read.
    for (const Layout layout : {Layout::kChannelsFirst, Layout::kChannelsLast}) {
      const SimulatedCall shared = resident_call(extent_of(8, 2, 4096, layout), DType::kFloat32, 2);
      expect_needed(shared, pass, Wait::kForCluster, {0, 1});
      // Before the teams' sums are read, and before values are transformed.
      const SimulatedCall teams =
          cooperative_call(extent_of(5, 2, 4096, layout), DType::kFloat32, 2, 1 << 20);
      expect_needed(teams, pass, Wait::kForCluster, {0, 1});
    }
    // In two rounds.
    const SimulatedCall rounds = cooperative_call({40, 3 * 128, 1}, DType::kFloat32, 1, 1 << 20);
    expect_needed(rounds, pass, Wait::kForCluster, {0, 1, 2, 3});
  }
}

// Before the warps' sums are merged, or a stack's halves; before the channels are finished that are
// not the own thread's, and the two of the cluster.
TEST(OnChipWaits, AreNeededForSumsAlone) {
  const Pass pass = Pass::kEvaluationsBackward;
  expect_needed(resident_call({8, 2, 999}, DType::kFloat32, 1), pass, Wait::kForBlock, {0});
  expect_needed(resident_call({8 * 99, 40, 1}, DType::kBFloat16, 1), pass, Wait::kForBlock,
                {0, 1, 2});
  SimulatedCall planes = resident_call({25, 8, 49}, DType::kBFloat16, 1);
  planes.device.multiprocessors = 1;
  expect_needed(planes, pass, Wait::kForBlock, {0, 1, 3, 4});
  for (const Layout layout : {Layout::kChannelsFirst, Layout::kChannelsLast}) {
    const SimulatedCall shared = resident_call(extent_of(8, 2, 4096, layout), DType::kFloat32, 2);
    expect_needed(shared, pass, Wait::kForCluster, {0});
    // The first block alone reads what others have: in plain order soon enough.
    expect_needed(shared, pass, Wait::kForCluster, {1}, Order::kShuffled);
  }
}

}  // namespace
}  // namespace torchbn::test
