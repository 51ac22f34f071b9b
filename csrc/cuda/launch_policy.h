#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "core/problem.h"

namespace torchbn::cuda {

// Launch numbers, as data. They follow from the extent, the dtype and the device, so that a result
// is the same bits on every run; where pointers are misaligned only the instructions differ.

struct DeviceLimits {
  int64_t multiprocessors = 1;
  int64_t max_grid = 2147483647;  // blocks along x, the only grid axis in use
};

// The widest load of a thread.
inline constexpr int kVectorBytes = 16;
// Threads of a block: enough warps to hide latency, few enough to leave each thread 128 registers
// with two blocks on a multiprocessor.
inline constexpr int kBlock = 256;

// Channels-first, (N, C, S): a work unit is a part of one channel, taken as the sequence of its
// N * S values. Small planes fill a block together that way.
struct ChannelsFirstTiling {
  int width = 1;     // values per vector; divides S, so no vector crosses a plane
  int block = 32;    // threads
  int64_t grid = 1;  // blocks; they loop where there are more units
  int64_t channels = 0;
  int64_t plane = 0;              // vectors per plane, S / width
  int64_t vectors = 0;            // per channel
  int64_t vectors_per_split = 0;  // the last split may have fewer
  int64_t splits = 0;             // units per channel, none of them empty

  // How a thread gets to its next vector, `block` vectors on: planes and vectors of that distance,
  // so that the kernels need no division.
  int64_t step_offset = 0;    // values, when the plane's end is not passed
  int64_t step_position = 0;  // vectors within the plane
  int64_t wrap_offset = 0;    // values, to be added when it is

  TORCHBN_HOST_DEVICE int64_t units() const { return channels * splits; }
};

// Channels-last, (N, S, C): `fold` rows of C values are one virtual row, which makes vectors of
// full width possible for every C and fills a block where C is small. A work unit is a tile of
// `columns` vectors by some virtual rows; a thread stays in one column.
struct ChannelsLastTiling {
  int width = 1;
  int block = kBlock;
  int columns = 1;  // vectors side by side in a tile
  int rows = 1;     // virtual rows that a block reads at once; rows * columns <= block
  int64_t grid = 1;
  int64_t channels = 0;
  int64_t numel = 0;  // the last virtual row may stop short
  int64_t fold = 1;
  int64_t row_vectors = 0;  // per virtual row, fold * C / width
  int64_t virtual_rows = 0;
  int64_t rows_per_split = 0;
  int64_t splits = 0;
  int64_t tiles = 0;  // across a virtual row
  // Partial sums that a unit leaves. A tile as wide as the virtual row merges its folded rows and
  // leaves one per channel; others leave one per virtual column.
  int64_t merged_width = 0;
  int64_t partial_row = 0;  // partial sums per split, C or fold * C

  TORCHBN_HOST_DEVICE int64_t units() const { return tiles * splits; }
};

// Merging partial sums and folding coefficients: `lanes` threads of a warp per channel.
struct FinishLaunch {
  int lanes = 1;
  int64_t grid = 1;
};

struct LaunchPolicy {
  Layout layout = Layout::kChannelsFirst;
  bool aligned = false;  // whether all vectors lie on their own alignment in every tensor
  ChannelsFirstTiling channels_first;
  ChannelsLastTiling channels_last;
  // Partial sums, [parts, C] whatever the layout; none where nothing is reduced.
  int64_t parts = 0;
  FinishLaunch finish;
  size_t coefficients_offset = 0;  // in the workspace; partial sums lie before
  size_t workspace_bytes = 0;
};

// `address_bits` is the bitwise or of the addresses of all tensors of the extent's size.
LaunchPolicy choose_policy(const Extent& extent, DType dtype, uintptr_t address_bits, bool reduces,
                           const DeviceLimits& device);

// In evaluation, the input's gradient alone needs no sums.
bool needs_sums(const BackwardProblem& problem);

LaunchPolicy choose_policy(const TrainProblem& problem, const DeviceLimits& device);
LaunchPolicy choose_policy(const InferenceProblem& problem, const DeviceLimits& device);
LaunchPolicy choose_policy(const BackwardProblem& problem, const DeviceLimits& device);

}  // namespace torchbn::cuda
