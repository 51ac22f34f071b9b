#include "cuda/on_chip/policy.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <iterator>
#include <limits>

#include "cuda/split_policy.h"

namespace torchbn::cuda {

namespace {

// Vectors across a channels-last tile, from what a warp reads in one go down.
constexpr int kTileColumns[] = {32, 16, 8, 4};

// What the system takes of a multiprocessor's shared memory for a block.
constexpr int64_t kSystemBytes = 1024;

// In the two microseconds that a launch takes, several megabytes are moved: tensors of less than
// this are a matter of launches, however few blocks there are.
constexpr int64_t kSmallTensor = int64_t{2} << 20;

// Of small tensors, what a block may have to sum up where nothing is held, so not all of it is
// under way at once: below, that is a matter of a launch as well.
constexpr int64_t kSummedInTime = int64_t{128} << 10;

// Of the largest clusters, in pairs of blocks on a multiprocessor: with less, measured on an H200,
// teams were faster.
constexpr int64_t kFewestWaves = 2;

// Of channels-last tiles. What takes larger ones is long and narrow: measured on an H200, a second
// read costs less.
constexpr int kLargestClusterAcross = 2;

// Of the shared memory of a block in a team: what is left to the L1 cache, where loads wait.
constexpr int64_t kLeftToLoads = int64_t{16} << 10;

struct Problem {
  Extent extent;
  DType dtype;
  int tensors;
};

int64_t bytes_of(const Problem& problem) {
  return problem.extent.numel() * static_cast<int64_t>(size_of(problem.dtype));
}

struct Candidate {
  LaunchPolicy policy;
  int64_t blocks = 0;  // none where the kernel does not accept the tiling
};

int64_t sums_of(const ChannelsFirstTiling&) {
  return kBlock / 32;  // one per warp
}
int64_t sums_of(const ChannelsLastTiling& tiling) {
  return in_stack(tiling.stack_room());
}

void put(LaunchPolicy& policy, const ChannelsFirstTiling& tiling) {
  policy.channels_first = tiling;
}
void put(LaunchPolicy& policy, const ChannelsLastTiling& tiling) {
  policy.channels_last = tiling;
  policy.layout = Layout::kChannelsLast;
}

bool fills(const Candidate& candidate, const DeviceLimits& device) {
  return candidate.blocks >= device.multiprocessors;
}

// Shared memory of a block where a multiprocessor holds two: one computes while the other waits for
// memory. Smaller blocks in larger clusters would wait for each other more often.
int64_t room_in_pairs(const DeviceLimits& device) {
  return std::min(device.shared_per_multiprocessor / 2 - kSystemBytes, device.shared_per_block);
}

// Of one vector from every thread.
template <typename Tiling>
int64_t pitch_bytes(const Problem& problem, const Tiling& tiling) {
  return tiling.pitch() * tiling.width * static_cast<int64_t>(size_of(problem.dtype));
}

// Lays out slots in shared memory. `blocks` of them are at work, if there is `room`.
template <typename Tiling>
Candidate lay_out(const Problem& problem, const Tiling& tiling, OnChipLaunch launch, int64_t slots,
                  int64_t blocks, int64_t room, const DeviceLimits& device) {
  launch.slots = static_cast<int>(slots);
  launch.tensor_bytes = round_up(slots * pitch_bytes(problem, tiling), kVectorBytes);
  launch.sums_offset = problem.tensors * launch.tensor_bytes;
  launch.coefficients_offset = launch.sums_offset + sums_of(tiling) * kSumsBytes;
  launch.shared_bytes = launch.coefficients_offset;
  if (launch.cluster > 0) launch.shared_bytes += tiling.channels_of(0) * kCoefficientBytes;
  launch.shared_limit = device.shared_per_block;

  Candidate candidate;
  put(candidate.policy, tiling);
  candidate.policy.on_chip = launch;
  if (launch.shared_bytes <= room) candidate.blocks = blocks;
  return candidate;
}

// None where half the cluster would have nothing to hold: a smaller one does as well.
template <typename Tiling>
Candidate in_clusters(const Problem& problem, Tiling tiling, int cluster,
                      const DeviceLimits& device) {
  divide(tiling, cluster);
  tiling.grid = tiling.groups() * cluster;
  if (2 * tiling.splits <= cluster || tiling.grid > device.max_grid) return {};
  OnChipLaunch launch;
  launch.cluster = cluster;
  return lay_out(problem, tiling, launch, tiling.thread_vectors(), tiling.units(),
                 device.shared_per_block, device);
}

// The smallest cluster, and for it the first of the tilings, that fills the device in pairs of
// blocks; where there is none, what makes most blocks.
struct BestClusters {
  template <typename Tiling, size_t kCount>
  Candidate operator()(const Problem& problem, const std::array<Tiling, kCount>& tilings,
                       const DeviceLimits& device) const {
    Candidate found;
    for (int cluster = 1; cluster <= device.max_cluster; cluster *= 2)
      for (const Tiling& tiling : tilings) {
        if (!tiling.tiles_are_groups()) continue;
        const Candidate other = in_clusters(problem, tiling, cluster, device);
        const bool in_pairs = other.policy.on_chip.shared_bytes <= room_in_pairs(device);
        if (other.blocks > 0 && fills(other, device) && in_pairs) return other;
        if (other.blocks > found.blocks) found = other;
      }
    return found;
  }
};

// As many slots as there is `room` for.
template <typename Tiling>
int64_t slots_in(const Problem& problem, const Tiling& tiling, int64_t room) {
  const int64_t of_tensor =
      (room - sums_of(tiling) * kSumsBytes) / problem.tensors - (kVectorBytes - 1);
  return std::clamp<int64_t>(of_tensor / pitch_bytes(problem, tiling), 0, tiling.thread_vectors());
}

// `teams` share out the blocks that run at once. What they have no room for is read again.
template <typename Tiling>
Candidate in_teams(const Problem& problem, Tiling tiling, int64_t teams, int64_t blocks,
                   const DeviceLimits& device) {
  divide(tiling, blocks / teams);
  tiling.grid = teams * tiling.splits;
  OnChipLaunch launch;
  launch.team = static_cast<int>(tiling.splits);
  launch.teams = teams;
  const int64_t room = room_in_pairs(device) - kLeftToLoads;
  Candidate candidate =
      lay_out(problem, tiling, launch, slots_in(problem, tiling, room), tiling.grid, room, device);
  lay_out_workspace(candidate.policy, tiling.channels, launch.team);
  return candidate;
}

// As few rounds as can be, since all blocks wait for each other in every one; among equals the
// first of the tilings.
struct BestTeams {
  template <typename Tiling, size_t kCount>
  Candidate operator()(const Problem& problem, const std::array<Tiling, kCount>& tilings,
                       const DeviceLimits& device) const {
    const int64_t blocks =
        std::min(kCooperativeBlocks * (device.multiprocessors - device.left_free), device.max_grid);
    Candidate found;
    int64_t fewest = std::numeric_limits<int64_t>::max();
    for (const Tiling& tiling : tilings) {
      if (!tiling.tiles_are_groups()) continue;
      const int64_t rounds = ceil_div(tiling.groups(), blocks);
      if (rounds >= fewest) continue;
      const Candidate other =
          in_teams(problem, tiling, ceil_div(tiling.groups(), rounds), blocks, device);
      if (other.blocks == 0) continue;
      found = other;
      fewest = rounds;
    }
    return found;
  }
};

template <typename F>
std::array<ChannelsLastTiling, std::size(kTileColumns)> for_all_columns(const F& tile) {
  std::array<ChannelsLastTiling, std::size(kTileColumns)> tilings;
  std::transform(std::begin(kTileColumns), std::end(kTileColumns), tilings.begin(), tile);
  return tilings;
}

template <typename Best>
Candidate find(const Best& best, const Problem& problem, const DeviceLimits& device) {
  const Extent& extent = problem.extent;
  const DType dtype = problem.dtype;
  if (extent.layout() == Layout::kChannelsLast) {
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

// Why clusters pay; nothing where they don't. With half of its multiprocessors a device still moves
// about all that its memory can, if every one of them has its shared memory full of loads under
// way. Below half of the L2 cache, a second read comes from there, and all multiprocessors are
// wanted for it.
const char* reason_for_clusters(const Problem& problem, const Candidate& candidate,
                                const DeviceLimits& device) {
  const OnChipLaunch& launch = candidate.policy.on_chip;
  const int64_t bytes = bytes_of(problem);
  const int64_t blocks = candidate.blocks;
  if (blocks == 0) return nullptr;
  if (problem.extent.layout() == Layout::kChannelsLast && launch.cluster > kLargestClusterAcross)
    return nullptr;
  if (bytes <= kSmallTensor) return "small: one launch";
  // Blocks of the largest clusters start together, and with few of them read and write in step.
  if (launch.cluster == device.max_cluster && launch.cluster > 1 &&
      blocks < 2 * kFewestWaves * device.multiprocessors)
    return nullptr;
  // Large blocks, one after the other, leave memory idle while they compute.
  if (blocks > device.multiprocessors && launch.shared_bytes > room_in_pairs(device))
    return nullptr;
  if (blocks >= device.multiprocessors) return "one read";
  if (2 * bytes > device.l2_bytes && 2 * blocks >= device.multiprocessors)
    return "one read, by half the device";
  return nullptr;
}

// None where `choice` does not want them.
Candidate clusters_for(const Problem& problem, const DeviceLimits& device, KernelChoice choice) {
  if (choice != KernelChoice::kAuto && choice != KernelChoice::kResident) return {};
  Candidate clusters = find(BestClusters{}, problem, device);
  clusters.policy.reason =
      choice == KernelChoice::kAuto ? reason_for_clusters(problem, clusters, device) : "asked for";
  return clusters.policy.reason != nullptr ? clusters : Candidate{};
}

bool keeps_all(const Candidate& teams) {
  return teams.policy.on_chip.slots >=
         of_tiling(teams.policy, [](const auto& tiling) { return tiling.thread_vectors(); });
}

// In several rounds, all blocks wait for the slowest of them so many times.
bool in_one_round(const Candidate& teams) {
  return of_tiling(teams.policy, [](const auto& tiling) { return tiling.groups(); }) <=
         teams.policy.on_chip.teams;
}

}  // namespace

LaunchPolicy on_chip_or(LaunchPolicy split, const Extent& extent, DType dtype, int tensors,
                        const DeviceLimits& device, KernelChoice choice) {
  const Problem problem{extent, dtype, tensors};
  const bool automatic = choice == KernelChoice::kAuto;
  split.reason = choice == KernelChoice::kSplit ? "asked for" : "no on-chip kernel suits it";
  const Candidate clusters = clusters_for(problem, device, choice);
  if (clusters.blocks > 0) return clusters.policy;
  if (automatic || choice == KernelChoice::kCooperative) {
    Candidate teams = find(BestTeams{}, problem, device);
    const bool pays = !automatic || in_one_round(teams);
    teams.policy.reason = !automatic         ? "asked for"
                          : keeps_all(teams) ? "one read, in teams"
                                             : "in teams";
    if (teams.blocks > 0 && pays) return teams.policy;
  }
  return split;
}

LaunchPolicy summing_in_clusters_or(LaunchPolicy split, const Extent& extent, DType dtype,
                                    int tensors, const DeviceLimits& device, KernelChoice choice) {
  const Problem problem{extent, dtype, tensors};
  Candidate clusters = clusters_for(problem, device, choice);
  if (clusters.blocks == 0) return split;
  OnChipLaunch& launch = clusters.policy.on_chip;
  const int64_t of_block = launch.sums_offset;
  const bool pays = bytes_of(problem) <= kSmallTensor && of_block <= kSummedInTime;
  if (choice == KernelChoice::kAuto && !pays) return split;
  launch.slots = 0;
  launch.tensor_bytes = launch.sums_offset = 0;
  launch.shared_bytes = launch.coefficients_offset -= of_block;
  return clusters.policy;
}

}  // namespace torchbn::cuda
