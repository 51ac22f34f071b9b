#include "cuda/thread/walk.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cuda/split_policy.h"
#include "support/extents.h"

namespace torchbn::cuda {
namespace {

// Few multiprocessors make one block do many steps, many make many splits.
constexpr int64_t kMultiprocessors[] = {1, 132};

// Channels first, then channels last.
const Extent kExtents[] = {{1, 1, 2},     {1, 1, 65537}, {3, 5, 7},     {2, 3, 8},     {5, 2, 12},
                           {33, 7, 49},   {9, 3, 196},   {2, 2, 3136},  {4, 6, 8192},  {3, 300, 16},
                           {1000, 3, 3},  {1, 70000, 2}, {13, 16, 49},  {7, 40, 7},    {2000, 8, 9},
                           {3, 8, 225},   {2, 1, 1},     {1023, 1, 1},  {2, 3, 1},     {700, 2, 1},
                           {217, 3, 1},   {5000, 6, 1},  {999, 7, 1},   {32, 64, 1},   {150, 63, 1},
                           {153, 65, 1},  {34, 511, 1},  {34, 512, 1},  {33, 1001, 1}, {6, 2049, 1},
                           {2, 70001, 1}, {4410, 16, 1}, {11011, 24, 1}};

std::string name(const Extent& extent, DType dtype, int64_t multiprocessors) {
  return test::describe(extent) + ", " + std::to_string(size_of(dtype)) + " bytes, " +
         std::to_string(multiprocessors) + " multiprocessors";
}

// How often each value is visited, and as a value of which channel.
struct Visits {
  explicit Visits(int64_t numel)
      : times(static_cast<size_t>(numel)), channel(static_cast<size_t>(numel), -1) {}

  void visit(int64_t offset, int64_t of_channel) {
    ASSERT_GE(offset, 0);
    ASSERT_LT(offset, static_cast<int64_t>(times.size()));
    ++times[static_cast<size_t>(offset)];
    channel[static_cast<size_t>(offset)] = of_channel;
  }

  std::vector<int> times;
  std::vector<int64_t> channel;
};

void visit_all(const ChannelsFirstTiling& tiling, Visits& visits) {
  for (int64_t unit = 0; unit < tiling.units(); ++unit)
    for (int thread = 0; thread < tiling.block; ++thread)
      for (ChannelsFirstWalk walk(tiling, unit_at(tiling, unit), thread); walk.left > 0;
           --walk.left, walk.step(tiling)) {
        ASSERT_EQ(walk.next % tiling.width, 0);
        for (int w = 0; w < tiling.width; ++w) visits.visit(walk.next + w, walk.channel);
      }
}

void visit_all(const ChannelsLastTiling& tiling, Visits& visits) {
  for (int64_t unit = 0; unit < tiling.units(); ++unit)
    for (int thread = 0; thread < tiling.block; ++thread) {
      ChannelsLastWalk walk(tiling, unit_at(tiling, unit), thread);
      const auto visit_lanes = [&](int lanes) {
        ASSERT_EQ(walk.next % tiling.width, 0);
        LaneChannel lane = walk.first_lane;
        for (int w = 0; w < lanes; ++w) {
          visits.visit(walk.next + w, lane.channel);
          lane.step(tiling);
        }
      };
      for (; walk.left > 0; --walk.left, walk.step(tiling)) visit_lanes(tiling.width);
      visit_lanes(walk.short_vector);
    }
}

TEST(Walk, VisitsEveryValueOnceAsOneOfItsChannel) {
  for (const Extent& extent : kExtents)
    for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16})
      for (const int64_t multiprocessors : kMultiprocessors) {
        SCOPED_TRACE(name(extent, dtype, multiprocessors));
        const LaunchPolicy policy =
            split_policy(extent, dtype, true, DeviceLimits{multiprocessors});
        const bool first = extent.layout() == Layout::kChannelsFirst;
        Visits visits(extent.numel());
        if (first)
          visit_all(policy.channels_first, visits);
        else
          visit_all(policy.channels_last, visits);
        ASSERT_EQ(std::count(visits.times.begin(), visits.times.end(), 1), extent.numel());
        for (int64_t i = 0; i < extent.numel(); ++i)
          ASSERT_EQ(visits.channel[static_cast<size_t>(i)], test::channel_of(extent, i))
              << "value " << i;
      }
}

// Channels-first in tiles of whole planes, where there are such tiles.
TEST(Walk, VisitsEveryValueOnceInTilesOfPlanes) {
  int tiled = 0;
  for (const Extent& extent : kExtents)
    for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16})
      for (const int columns : {4, 32})
        for (const int64_t parts : {1, 2}) {
          if (extent.layout() != Layout::kChannelsFirst) continue;
          ChannelsLastTiling tiling = tile_planes(extent, dtype, columns);
          if (tiling.tiles == 0) continue;
          SCOPED_TRACE(name(extent, dtype, 1));
          ++tiled;
          divide(tiling, parts);
          Visits visits(extent.numel());
          visit_all(tiling, visits);
          ASSERT_EQ(std::count(visits.times.begin(), visits.times.end(), 1), extent.numel());
          for (int64_t i = 0; i < extent.numel(); ++i)
            ASSERT_EQ(visits.channel[static_cast<size_t>(i)], test::channel_of(extent, i))
                << "value " << i;
        }
  EXPECT_GT(tiled, 10);
}

// Tensors with offsets beyond 32 bits, which are too large to be visited in full.
constexpr int64_t kHuge = (int64_t{1} << 33) + 8;
const Extent kHugeExtents[] = {
    {1, 1, kHuge},     {kHuge / 8, 1, 8}, {3, kHuge / 8, 8},
    {kHuge / 8, 8, 1}, {2, kHuge, 1},     {kHuge, 3, 1},
};

TEST(Walk, ReachesTheEndOfTensorsBeyond32Bits) {
  for (const Extent& extent : kHugeExtents) {
    SCOPED_TRACE(name(extent, DType::kBFloat16, 132));
    const LaunchPolicy policy = split_policy(extent, DType::kBFloat16, true, DeviceLimits{132});
    int64_t end = 0;
    for (int thread = 0; thread < kBlock; ++thread) {
      if (extent.layout() == Layout::kChannelsFirst) {
        const ChannelsFirstTiling& tiling = policy.channels_first;
        if (thread >= tiling.block) break;
        ChannelsFirstWalk walk(tiling, unit_at(tiling, tiling.units() - 1), thread);
        for (; walk.left > 0; --walk.left, walk.step(tiling))
          end = std::max(end, walk.next + tiling.width);
      } else {
        const ChannelsLastTiling& tiling = policy.channels_last;
        ChannelsLastWalk walk(tiling, unit_at(tiling, tiling.units() - 1), thread);
        for (; walk.left > 0; --walk.left, walk.step(tiling))
          end = std::max(end, walk.next + tiling.width);
        if (walk.short_vector > 0) end = std::max(end, walk.next + walk.short_vector);
      }
    }
    EXPECT_EQ(end, extent.numel());
  }
}

// From the last vector of a thread to its first, in units as long as can be.
template <typename Tiling>
void go_back(Tiling tiling) {
  divide(tiling, 1);
  const Unit unit = unit_at(tiling, tiling.units() - 1);
  for (const int thread : {0, tiling.block - 1}) {
    const WalkOver<Tiling> walk(tiling, unit, thread);
    if (walk.left == 0) continue;
    WalkOver<Tiling> ahead = walk;
    for (int i = 1; i < walk.left; ++i) ahead.step(tiling);
    BackwardWalk<WalkOver<Tiling>> back(walk, tiling, unit, thread, 0);
    ASSERT_EQ(back.left, walk.left);
    EXPECT_EQ(back.next, ahead.next);
    for (int i = 1; i < walk.left; ++i) back.step(tiling);
    EXPECT_EQ(back.next, walk.next);
  }
}

TEST(Walk, GoesBackBeyond32Bits) {
  for (const Extent& extent : kHugeExtents) {
    SCOPED_TRACE(name(extent, DType::kBFloat16, 1));
    of_tiling(split_policy(extent, DType::kBFloat16, true, DeviceLimits{1}),
              [](const auto& tiling) { go_back(tiling); });
  }
}

}  // namespace
}  // namespace torchbn::cuda
