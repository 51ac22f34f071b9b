#include "cuda/resident_policy.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>

namespace torchbn::cuda {

namespace {

// Vectors across a channels-last tile, from what a warp reads in one go down to 64 bytes, which is
// as little as an H100 fetches from memory.
constexpr int kTileColumns[] = {32, 16, 8, 4};

// What the system takes of a multiprocessor's shared memory for a block.
constexpr int64_t kSystemBytes = 1024;

// In the two microseconds that a launch takes, several megabytes are moved: tensors of less than
// this are a matter of launches, however few blocks there are.
constexpr int64_t kSmallTensor = int64_t{2} << 20;

struct Problem {
  Extent extent;
  DType dtype;
  int tensors;
  uintptr_t address_bits;
};

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

void put(LaunchPolicy& policy, const ChannelsFirstTiling& tiling) {
  policy.channels_first = tiling;
}
void put(LaunchPolicy& policy, const ChannelsLastTiling& tiling) {
  policy.channels_last = tiling;
  policy.layout = Layout::kChannelsLast;
}

// Lays a unit out in shared memory. Where half the cluster has nothing to hold, a smaller one would
// do as well.
template <typename Tiling>
Candidate place(const Problem& problem, Tiling tiling, int cluster, const DeviceLimits& device) {
  const auto value_bytes = static_cast<int64_t>(size_of(problem.dtype));
  divide(tiling, cluster);
  tiling.grid = tiling.groups() * cluster;
  ResidentLaunch launch;
  launch.cluster = cluster;
  launch.tensor_bytes = tiling.unit_vectors() * tiling.width * value_bytes;
  launch.sums_offset = problem.tensors * launch.tensor_bytes;
  launch.coefficients_offset = launch.sums_offset + sums_of(tiling) * kSumsBytes;
  launch.shared_bytes = launch.coefficients_offset + tiling.channels_of(0) * kCoefficientBytes;
  launch.shared_limit = device.shared_per_block;

  Candidate candidate;
  put(candidate.policy, tiling);
  candidate.policy.resident = launch;
  candidate.policy.aligned = is_aligned(problem.address_bits, tiling.width, problem.dtype);
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

// The smallest cluster, and for it the first of the tilings, that fills the device in pairs of
// blocks; where there is none, what makes most blocks.
template <typename Tiling, size_t kCount>
Candidate best(const Problem& problem, const std::array<Tiling, kCount>& tilings,
               const DeviceLimits& device) {
  Candidate found;
  for (int cluster = 1; cluster <= device.max_cluster; cluster *= 2)
    for (const Tiling& tiling : tilings) {
      if (!tiling.tiles_are_groups()) continue;
      const Candidate other = place(problem, tiling, cluster, device);
      if (other.blocks > 0 && fills(other, device) && pairs(other, device)) return other;
      if (other.blocks > found.blocks) found = other;
    }
  return found;
}

template <typename F>
std::array<ChannelsLastTiling, std::size(kTileColumns)> for_all_columns(const F& tile) {
  std::array<ChannelsLastTiling, std::size(kTileColumns)> tilings;
  std::transform(std::begin(kTileColumns), std::end(kTileColumns), tilings.begin(), tile);
  return tilings;
}

Candidate best(const Problem& problem, const DeviceLimits& device) {
  const Extent& extent = problem.extent;
  const DType dtype = problem.dtype;
  if (extent.layout == Layout::kChannelsLast) {
    // Where C values are no whole vectors, a tile must be as wide as the virtual row, or channels
    // would lie in several tiles.
    const bool whole = extent.channels * static_cast<int64_t>(size_of(dtype)) % kVectorBytes == 0;
    const auto tile = [&](int columns) {
      return tile_channels_last(extent, dtype, columns, whole ? columns : kLongestRow);
    };
    return best(problem, for_all_columns(tile), device);
  }
  // Whole vectors come before single values, if enough blocks can have them.
  const auto tile = [&](int columns) { return tile_planes(extent, dtype, columns); };
  const Candidate planes = best(problem, for_all_columns(tile), device);
  if (fills(planes, device)) return planes;
  const std::array channels = {tile_channels_first(extent, dtype)};
  const Candidate single = best(problem, channels, device);
  return single.blocks > planes.blocks ? single : planes;
}

struct Verdict {
  bool worthwhile;
  const char* reason;
};

// With half of its multiprocessors a device still moves about all that its memory can, if every one
// of them has its shared memory full of loads under way. Below half of the L2 cache, a second read
// comes from there, and all multiprocessors are wanted for it.
Verdict judge(const Problem& problem, int64_t blocks, const DeviceLimits& device) {
  const int64_t bytes = problem.extent.numel() * static_cast<int64_t>(size_of(problem.dtype));
  if (bytes <= kSmallTensor) return {true, "small: one launch"};
  if (blocks >= device.multiprocessors) return {true, "one read"};
  if (2 * bytes > device.l2_bytes && 2 * blocks >= device.multiprocessors)
    return {true, "one read, by half the device"};
  return {false, "too few blocks"};
}

}  // namespace

LaunchPolicy resident_or(LaunchPolicy split, const Extent& extent, DType dtype, int tensors,
                         uintptr_t address_bits, const DeviceLimits& device, KernelChoice choice) {
  split.reason = "asked for";
  if (choice == KernelChoice::kSplit) return split;

  const Problem problem{extent, dtype, tensors, address_bits};
  Candidate found = best(problem, device);
  if (found.blocks == 0) {
    split.reason = "does not fit on chip";
    return split;
  }
  const Verdict verdict = choice == KernelChoice::kAuto ? judge(problem, found.blocks, device)
                                                        : Verdict{true, "asked for"};
  LaunchPolicy& policy = verdict.worthwhile ? found.policy : split;
  policy.reason = verdict.reason;
  return policy;
}

}  // namespace torchbn::cuda
