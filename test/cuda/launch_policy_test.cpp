#include "cuda/launch_policy.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "cuda/split_policy.h"
#include "support/extents.h"

namespace torchbn::cuda {
namespace {

constexpr Layout kFirst = Layout::kChannelsFirst;
constexpr Layout kLast = Layout::kChannelsLast;
constexpr DeviceLimits kH200{132};

LaunchPolicy choose(int64_t batch, int64_t channels, int64_t spatial, Layout layout,
                    DType dtype = DType::kFloat32, bool reduces = true) {
  return split_policy(test::extent_of(batch, channels, spatial, layout), dtype, reduces, kH200);
}

int64_t grid(const LaunchPolicy& policy) {
  return policy.layout == kFirst ? policy.channels_first.grid : policy.channels_last.grid;
}

TEST(LaunchPolicy, FewChannelsFillTheDevice) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat64}) {
    EXPECT_GE(grid(choose(20, 6, 65536, kFirst, dtype)), 4 * kH200.multiprocessors);
    EXPECT_GE(grid(choose(64, 1, 224 * 224, kFirst, dtype)), 2 * kH200.multiprocessors);
    EXPECT_GE(grid(choose(8, 3, 512 * 512, kFirst, dtype)), 4 * kH200.multiprocessors);
    // All blocks at once, but for what the last rows do not share out evenly.
    for (const auto& [batch, channels, spatial] :
         {std::array<int64_t, 3>{20, 6, 65536}, {64, 1, 224 * 224}, {8, 3, 512 * 512}}) {
      const int64_t blocks = blocks_reducing_across(size_of(dtype)) * kH200.multiprocessors;
      const int64_t taken = grid(choose(batch, channels, spatial, kLast, dtype));
      EXPECT_LE(taken, blocks);
      EXPECT_GE(taken, blocks * 9 / 10);
    }
  }
}

TEST(LaunchPolicy, ManyChannelsAreNotSplit) {
  EXPECT_EQ(choose(32, 2048, 49, kFirst).channels_first.splits, 1);
  EXPECT_EQ(choose(32, 2048, 49, kFirst).parts, 1);
}

TEST(LaunchPolicy, VectorsDivideThePlane) {
  EXPECT_EQ(choose(2, 3, 3136, kFirst).channels_first.width, 4);
  EXPECT_EQ(choose(2, 3, 49, kFirst).channels_first.width, 1);
  EXPECT_EQ(choose(2, 3, 3136, kFirst, DType::kBFloat16).channels_first.width, 8);
  EXPECT_EQ(choose(2, 3, 196, kFirst, DType::kFloat16).channels_first.width, 4);
  EXPECT_EQ(choose(2, 3, 50, kFirst, DType::kFloat16).channels_first.width, 1);
  EXPECT_EQ(choose(2, 3, 50, kFirst, DType::kFloat64).channels_first.width, 2);
}

TEST(LaunchPolicy, VirtualRowsMakeFullVectorsForEveryChannelCount) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kFloat16})
    for (int64_t channels = 1; channels < 600; ++channels) {
      const ChannelsLastTiling tiling = choose(7, channels, 1000, kLast, dtype).channels_last;
      EXPECT_EQ(tiling.width, width_across(size_of(dtype)));
      EXPECT_EQ(tiling.row_vectors * tiling.width, tiling.fold * channels);
      EXPECT_LE(tiling.rows * tiling.columns, tiling.block);
      // Fewer than a fifth of the threads are left without a column.
      EXPECT_GE(5 * tiling.rows * tiling.columns, 4 * tiling.block) << channels;
      EXPECT_EQ(tiling.rows * tiling.columns * tiling.width % tiling.merged_width, 0);
      EXPECT_EQ(tiling.partial_row % channels, 0);
    }
}

// The blocks loop where the grid is smaller than the units.
TEST(LaunchPolicy, GridsStayWithinTheDevicesLimit) {
  const int64_t huge = int64_t{1} << 33;
  for (const Layout layout : {kFirst, kLast})
    for (const LaunchPolicy& policy :
         {choose(2, huge, 1, layout), choose(huge, 2, 1, layout), choose(1, 1, huge, layout),
          choose(huge, 64, 49, layout), choose(3, huge + 1, 1, layout, DType::kFloat16)}) {
      EXPECT_GE(grid(policy), 1);
      EXPECT_LE(grid(policy), kH200.max_grid);
      EXPECT_GE(policy.finish.grid, 1);
      EXPECT_LE(policy.finish.grid, kH200.max_grid);
    }
}

TEST(LaunchPolicy, PartialSumsStayFew) {
  for (const Layout layout : {kFirst, kLast})
    for (const int64_t channels : {1, 3, 6, 7, 64, 1000, 1001, 4096}) {
      const LaunchPolicy policy = choose(256, channels, 112 * 112, layout);
      // A unit leaves at most one per value of its tile.
      EXPECT_LE(policy.parts * channels,
                8 * kH200.multiprocessors * std::max<int64_t>(256, channels));
      EXPECT_LE(policy.parts, 8 * kH200.multiprocessors + 8);
    }
}

TEST(LaunchPolicy, FinishTakesAWarpAtMost) {
  EXPECT_EQ(choose(32, 2048, 49, kFirst).finish.lanes, 1);
  EXPECT_EQ(choose(64, 1, 224 * 224, kFirst).finish.lanes, 32);
  EXPECT_EQ(choose(64, 1, 224 * 224, kFirst, DType::kFloat32, false).finish.lanes, 1);
}

TEST(LaunchPolicy, WorkspaceHoldsPartialSumsThenCoefficients) {
  const LaunchPolicy policy = choose(20, 6, 65536, kFirst);
  EXPECT_GE(policy.workspace_coefficients, static_cast<size_t>(policy.parts * 6 * 16));
  EXPECT_EQ(policy.workspace_coefficients % 256, 0u);
  EXPECT_GE(policy.workspace_bytes, policy.workspace_coefficients + 6 * 32);
  const LaunchPolicy plain = choose(20, 6, 65536, kFirst, DType::kFloat32, false);
  EXPECT_EQ(plain.parts, 0);
  EXPECT_EQ(plain.workspace_coefficients, 0u);
}

TEST(LaunchPolicy, BlocksFoldWhereTheirTilesAreWholeGroupsOfChannels) {
  for (const auto& [channels, spatial, layout] :
       {std::tuple<int64_t, int64_t, Layout>{64, 3136, kFirst},
        {7, 49, kFirst},
        {64, 1, kLast},
        {6, 1, kLast}}) {
    const LaunchPolicy policy = choose(32, channels, spatial, layout, DType::kFloat32, false);
    EXPECT_TRUE(policy.folds_in_blocks);
    EXPECT_EQ(policy.workspace_bytes, 0);
  }
  // A tile of a folded row has columns of channels that are in others, too.
  const LaunchPolicy policy = choose(1000, 67, 1, kLast, DType::kFloat32, false);
  EXPECT_FALSE(policy.folds_in_blocks);
  EXPECT_EQ(policy.workspace_bytes, 67 * kCoefficientBytes);
  EXPECT_FALSE(choose(32, 64, 3136, kFirst).folds_in_blocks);
}

// Of large tensors, whose output would push out of the cache what is still to be read.
TEST(LaunchPolicy, LargeOutputsAreStoredPastTheCaches) {
  DeviceLimits device = kH200;
  device.l2_bytes = 60 << 20;
  const auto past_caches = [&](auto problem, int64_t batch, KernelChoice choice) {
    problem.extent = {batch, 64, 56 * 56};
    return choose_policy(problem, device, choice).past_caches;
  };
  for (const KernelChoice choice : {KernelChoice::kSplit, KernelChoice::kAuto}) {
    BackwardProblem backward;
    float value = 0;
    backward.grad_input = &value;
    for (const bool training : {true, false}) {
      backward.training = training;
      EXPECT_FALSE(past_caches(backward, 16, choice));
      EXPECT_TRUE(past_caches(backward, 32, choice));
    }
    EXPECT_FALSE(past_caches(TrainProblem{}, 16, choice));
    EXPECT_TRUE(past_caches(TrainProblem{}, 32, choice));
    EXPECT_FALSE(past_caches(InferenceProblem{}, 16, choice));
    EXPECT_TRUE(past_caches(InferenceProblem{}, 32, choice));
  }
}

TEST(LaunchPolicy, EvaluationNeedsSumsForParametersOnly) {
  float value = 0;
  BackwardProblem problem;
  problem.grad_input = &value;
  EXPECT_FALSE(problem.needs_sums());
  problem.training = true;
  EXPECT_TRUE(problem.needs_sums());
  problem.training = false;
  problem.grad_bias.data = &value;
  EXPECT_TRUE(problem.needs_sums());
}

}  // namespace
}  // namespace torchbn::cuda
