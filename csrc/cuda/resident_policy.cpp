#include "cuda/resident_policy.h"

#include <algorithm>

namespace torchbn::cuda {

namespace {

// Vectors across a channels-last tile, from what a warp reads in one go down to 64 bytes, which is
// as little as an H100 fetches from memory.
constexpr int kTileColumns[] = {32, 16, 8, 4};

// What the system takes of a multiprocessor's shared memory for a block.
constexpr int64_t kSystemBytes = 1024;

// A launch takes about as long as moving so many bytes: below, three of them are what costs.
constexpr int64_t kSmallTensor = int64_t{2} << 20;

constexpr int64_t kSumsBytes = 16;
constexpr int64_t kCoefficientBytes = 32;

struct Candidate {
  LaunchPolicy policy;
  int64_t blocks = 0;  // none where the kernel does not accept the tiling
};

int64_t sums_of(const ChannelsFirstTiling&) {
  return kBlock / 32;  // one per warp
}
int64_t sums_of(const ChannelsLastTiling& tiling) {
  return tiling.stack_room();
}

// Lays a unit out in shared memory. Where half the cluster has nothing to hold, a smaller one would
// do as well.
template <typename Tiling>
Candidate place(const LaunchPolicy& split, Tiling LaunchPolicy::*member, Tiling tiling, DType dtype,
                int tensors, int cluster, const DeviceLimits& device) {
  divide(tiling, cluster);
  ResidentLaunch launch;
  launch.cluster = cluster;
  launch.shared_limit = device.shared_per_block;
  launch.tensor_bytes = tiling.unit_vectors() * tiling.width * static_cast<int64_t>(size_of(dtype));
  launch.sums_offset = tensors * launch.tensor_bytes;
  launch.coefficients_offset = launch.sums_offset + sums_of(tiling) * kSumsBytes;
  launch.shared_bytes = launch.coefficients_offset + tiling.channels_of(0) * kCoefficientBytes;
  tiling.grid = tiling.groups() * cluster;

  Candidate candidate{split};
  candidate.policy.*member = tiling;
  candidate.policy.resident = launch;
  if (2 * tiling.splits > cluster && launch.shared_bytes <= device.shared_per_block &&
      tiling.grid <= device.max_grid)
    candidate.blocks = tiling.units();
  return candidate;
}

bool fills(const Candidate& candidate, const DeviceLimits& device) {
  return candidate.blocks >= device.multiprocessors;
}

// Two blocks on a multiprocessor: one computes while the other waits for memory.
bool pairs(const Candidate& candidate, const DeviceLimits& device) {
  return 2 * (candidate.policy.resident.shared_bytes + kSystemBytes) <=
         device.shared_per_multiprocessor;
}

// The smallest cluster, and for it the widest tile, that fills the device in pairs of blocks; where
// there is none, what makes most blocks.
Candidate best(const LaunchPolicy& split, const Extent& extent, DType dtype, int tensors,
               const DeviceLimits& device) {
  Candidate found{split};
  found.policy.reason = "does not fit on chip";
  bool satisfied = false;
  const auto consider = [&](const Candidate& other) {
    if (satisfied || other.blocks == 0) return;
    satisfied = fills(other, device) && pairs(other, device);
    if (satisfied || other.blocks > found.blocks) found = other;
  };
  for (int cluster = 1; cluster <= device.max_cluster; cluster *= 2) {
    if (extent.layout == Layout::kChannelsFirst) {
      consider(place(split, &LaunchPolicy::channels_first, tile_channels_first(extent, dtype),
                     dtype, tensors, cluster, device));
      continue;
    }
    // Where C values are no whole vectors, a tile must be as wide as the virtual row, or channels
    // would lie in several tiles.
    const int64_t width = kVectorBytes / static_cast<int64_t>(size_of(dtype));
    for (const int columns : kTileColumns) {
      const int longest_row = extent.channels % width == 0 ? columns : kLongestRow;
      const ChannelsLastTiling tiling = tile_channels_last(extent, dtype, columns, longest_row);
      if (tiling.tiles_are_groups())
        consider(
            place(split, &LaunchPolicy::channels_last, tiling, dtype, tensors, cluster, device));
      else
        found.policy.reason = "channels lie in several tiles";
    }
  }
  return found;
}

// With half of its multiprocessors a device still moves about all that its memory can, if every one
// of them has its shared memory full of loads under way. Below half of the L2 cache, a second read
// comes from there, and all multiprocessors are wanted for it.
bool is_worthwhile(LaunchPolicy& policy, const Extent& extent, DType dtype, int64_t blocks,
                   const DeviceLimits& device) {
  const int64_t bytes = extent.numel() * static_cast<int64_t>(size_of(dtype));
  if (bytes <= kSmallTensor) {
    policy.reason = "small: one launch";
    return true;
  }
  if (blocks >= device.multiprocessors) {
    policy.reason = "one read";
    return true;
  }
  if (2 * bytes > device.l2_bytes && 2 * blocks >= device.multiprocessors) {
    policy.reason = "one read, by half the device";
    return true;
  }
  policy.reason = "too few blocks";
  return false;
}

}  // namespace

LaunchPolicy resident_or(const LaunchPolicy& split, const Extent& extent, DType dtype, int tensors,
                         const DeviceLimits& device, KernelChoice choice) {
  LaunchPolicy otherwise = split;
  otherwise.reason = "asked for";
  if (choice == KernelChoice::kSplit) return otherwise;

  Candidate found = best(split, extent, dtype, tensors, device);
  if (found.blocks == 0) {
    otherwise.reason = found.policy.reason;
    return otherwise;
  }

  found.policy.reason = "asked for";
  if (choice == KernelChoice::kAuto &&
      !is_worthwhile(found.policy, extent, dtype, found.blocks, device)) {
    otherwise.reason = found.policy.reason;
    return otherwise;
  }
  found.policy.parts = 0;
  found.policy.workspace_bytes = 0;
  return found.policy;
}

}  // namespace torchbn::cuda
