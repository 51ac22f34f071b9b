#include "cuda/split_policy.h"

#include <algorithm>

namespace torchbn::cuda {

namespace {

// Units wanted per multiprocessor. A multiprocessor holds two to eight blocks of 256 threads,
// depending on registers: eight units keep it full and let uneven ends level out. Tiles that are
// reduced leave sums of all their columns: the fewer, the better.
constexpr int64_t kUnits = 8;

// Vectors across a channels-last tile: 32 of 16 bytes are 512 contiguous bytes for a warp. A longer
// virtual row may still be one tile, because merging its folded rows in the block spares the finish
// kernel most of the partial sums.
constexpr int kTileColumns = 32;

constexpr int64_t kWorkspaceAlignment = 256;

template <typename Tiling>
void divide_and_launch(Tiling& tiling, int64_t units, const DeviceLimits& device) {
  divide(tiling, units * device.multiprocessors / tiling.groups());
  tiling.grid = std::min(tiling.units(), device.max_grid);
}

// As many lanes as there are parts, so that a warp neither idles nor loops more than it must.
FinishLaunch finish_launch(int64_t channels, int64_t parts, const DeviceLimits& device) {
  FinishLaunch launch;
  while (launch.lanes < 32 && launch.lanes < parts) launch.lanes *= 2;
  launch.grid = std::min(ceil_div(channels, kBlock / launch.lanes), device.max_grid);
  return launch;
}

}  // namespace

LaunchPolicy split_policy(const Extent& extent, DType dtype, bool reduces,
                          const DeviceLimits& device) {
  LaunchPolicy policy;
  // Planes that are no whole vectors are summed up value by value; what is mapped without any sums
  // has vectors of several planes.
  const bool first = extent.layout() == Layout::kChannelsFirst;
  const ChannelsLastTiling planes =
      first && !reduces ? tile_planes(extent, dtype, kTileColumns) : ChannelsLastTiling{};
  int64_t parts = 0;
  if (first && planes.tiles == 0) {
    policy.channels_first = tile_channels_first(extent, dtype);
    divide_and_launch(policy.channels_first, kUnits, device);
    parts = policy.channels_first.splits;
  } else {
    policy.layout = Layout::kChannelsLast;
    policy.channels_last =
        first ? planes : tile_channels_last(extent, dtype, kTileColumns, kLongestRow);
    divide_and_launch(policy.channels_last,
                      reduces ? blocks_reducing_across(size_of(dtype)) : kUnits, device);
    parts = policy.channels_last.splits * policy.channels_last.partial_row / extent.channels;
  }
  policy.folds_in_blocks =
      !reduces && of_tiling(policy, [](const auto& tiling) { return tiling.tiles_are_groups(); });
  if (!policy.folds_in_blocks) lay_out_workspace(policy, extent.channels, reduces ? parts : 0);
  policy.finish = finish_launch(extent.channels, policy.parts, device);
  return policy;
}

void lay_out_workspace(LaunchPolicy& policy, int64_t channels, int64_t parts) {
  policy.parts = parts;
  policy.workspace_coefficients =
      static_cast<size_t>(round_up(parts * channels * kSumsBytes, kWorkspaceAlignment));
  policy.workspace_bytes =
      policy.workspace_coefficients + static_cast<size_t>(channels * kCoefficientBytes);
}

}  // namespace torchbn::cuda
