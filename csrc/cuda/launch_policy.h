#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/problem.h"
#include "cuda/tilings.h"

namespace torchbn::cuda {

// Launch numbers, as data: what a pure function makes of the problem and the device.

struct DeviceLimits {
  int64_t multiprocessors = 1;
  int64_t max_grid = 2147483647;  // blocks along x, the only grid axis in use
  // Bytes of shared memory, as far as kernels can opt in to it.
  int64_t shared_per_block = 0;
  int64_t shared_per_multiprocessor = 0;
  int64_t l2_bytes = 0;
  int max_cluster = 1;  // blocks; 8 where device and code have clusters
  // Multiprocessors that kernels whose blocks all run at once leave to others; not all of them.
  int64_t left_free = 0;
};

// What a kernel keeps of a channel: two doubles, and coefficients of at most four.
inline constexpr int64_t kSumsBytes = 16;
inline constexpr int64_t kCoefficientBytes = 32;

// Which kernels run. Split ones read a tensor once for its sums and once more to transform it.
// Resident and cooperative ones do both in one launch. Resident ones hold the tensor in shared
// memory in between, cooperative ones as much of it as fits. In evaluation, where the input's
// gradient needs no sums, all choices but the split one make it while they sum. Resident blocks
// do that, and sum up for parameters' gradients alone, in one launch, too: kAuto wants that of
// small tensors.
enum class KernelChoice : uint8_t { kSplit, kResident, kCooperative, kAuto };

inline constexpr KernelChoice kDefaultKernel = KernelChoice::kAuto;

// "split", "resident", "cooperative" or "auto"; nothing for other names.
std::optional<KernelChoice> kernel_choice(std::string_view name);

// Merging partial sums and folding coefficients: `lanes` threads of a warp per channel.
struct FinishLaunch {
  int lanes = 1;
  int64_t grid = 1;
};

// The blocks that hold all units of a group of channels, a block one of them, are a cluster, or
// where all blocks of the grid run at once, a team.
struct OnChipLaunch {
  int cluster = 0;    // blocks; 0 where other kernels run
  int team = 0;       // likewise
  int64_t teams = 0;  // that hold a group each, and then the next ones
  // In a block's dynamic shared memory: `slots` vectors of each thread for each tensor, sums, then
  // a cluster's coefficients.
  int slots = 0;
  int64_t tensor_bytes = 0;
  int64_t sums_offset = 0;
  int64_t coefficients_offset = 0;
  int64_t shared_bytes = 0;
  int64_t shared_limit = 0;  // what kernels opt in to, always the same on a device

  bool used() const { return cluster > 0 || team > 0; }
};

struct LaunchPolicy {
  Layout layout = Layout::kChannelsFirst;  // that of the tiling in use
  bool past_caches = false;                // the output is stored: it would not stay in them
  ChannelsFirstTiling channels_first;
  ChannelsLastTiling channels_last;
  OnChipLaunch on_chip;
  const char* reason = "";  // why these kernels
  // In evaluation: the kernel that sums gradients up makes the input's of what it reads.
  bool maps_while_summing = false;
  // Where nothing is summed up, and no tile shares channels with others: the blocks that transform
  // a tile fold its coefficients, and there is no workspace.
  bool folds_in_blocks = false;
  // From here on not for clusters. Partial sums, [parts, C] whatever the layout; none where nothing
  // is reduced.
  int64_t parts = 0;
  size_t workspace_coefficients = 0;  // their offset; partial sums lie before them
  size_t workspace_bytes = 0;
  FinishLaunch finish;  // of the split kernels
};

// read(the tiling in use), for what all tilings have.
template <typename Read>
auto of_tiling(const LaunchPolicy& policy, const Read& read) {
  return policy.layout == Layout::kChannelsFirst ? read(policy.channels_first)
                                                 : read(policy.channels_last);
}

LaunchPolicy choose_policy(const TrainProblem& problem, const DeviceLimits& device,
                           KernelChoice choice = kDefaultKernel);
LaunchPolicy choose_policy(const InferenceProblem& problem, const DeviceLimits& device,
                           KernelChoice choice = kDefaultKernel);
LaunchPolicy choose_policy(const BackwardProblem& problem, const DeviceLimits& device,
                           KernelChoice choice = kDefaultKernel);

}  // namespace torchbn::cuda
