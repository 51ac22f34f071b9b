#include "cuda/launch_policy.h"

#include <algorithm>
#include <numeric>

namespace torchbn::cuda {

namespace {

// Units wanted per multiprocessor. A multiprocessor holds two to eight blocks of 256 threads,
// depending on registers: eight units keep it full and let uneven ends level out.
constexpr int64_t kUnitsPerMultiprocessor = 8;

// A thread that reads fewer vectors than this costs more in merging than it wins in parallelism.
constexpr int64_t kMinVectorsPerThread = 4;

// Vectors across a channels-last tile: 32 of 16 bytes are 512 contiguous bytes for a warp. A whole
// virtual row of up to 64 is still one tile, because merging its folded rows in the block spares
// the finish kernel most of the partial sums.
constexpr int64_t kTileColumns = 32;
constexpr int64_t kMaxTileColumns = 64;

// Two doubles, and coefficients of at most four.
constexpr size_t kSumsBytes = 16;
constexpr size_t kCoefficientBytes = 32;
constexpr size_t kWorkspaceAlignment = 256;

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

int64_t wanted_units(const DeviceLimits& device) {
  return kUnitsPerMultiprocessor * device.multiprocessors;
}

// Full vectors, for two-byte types also half ones (14 * 14 planes), or single values: every width
// is a kernel of its own.
int widest_dividing(int64_t spatial, int64_t value_bytes) {
  const int full = static_cast<int>(kVectorBytes / value_bytes);
  if (spatial % full == 0) return full;
  if (value_bytes == 2 && spatial % (full / 2) == 0) return full / 2;
  return 1;
}

ChannelsFirstTiling tile_channels_first(const Extent& extent, int64_t value_bytes,
                                        const DeviceLimits& device) {
  ChannelsFirstTiling tiling;
  tiling.width = widest_dividing(extent.spatial, value_bytes);
  tiling.channels = extent.channels;
  tiling.plane = extent.spatial / tiling.width;
  tiling.vectors = extent.batch * tiling.plane;

  // Channels of few values get small blocks rather than idle threads.
  tiling.block = kBlock;
  while (tiling.block > 32 && tiling.vectors < kMinVectorsPerThread * tiling.block)
    tiling.block /= 2;

  const int64_t useful =
      std::max<int64_t>(1, tiling.vectors / (kMinVectorsPerThread * tiling.block));
  const int64_t wanted = std::max<int64_t>(1, wanted_units(device) / extent.channels);
  tiling.vectors_per_split =
      round_up(ceil_div(tiling.vectors, std::min(useful, wanted)), tiling.block);
  tiling.splits = ceil_div(tiling.vectors, tiling.vectors_per_split);
  tiling.grid = std::min(tiling.units(), device.max_grid);

  const int64_t values_per_sample = extent.channels * extent.spatial;
  tiling.step_position = tiling.block % tiling.plane;
  tiling.step_offset =
      tiling.block / tiling.plane * values_per_sample + tiling.step_position * tiling.width;
  tiling.wrap_offset = values_per_sample - extent.spatial;
  return tiling;
}

ChannelsLastTiling tile_channels_last(const Extent& extent, int64_t value_bytes,
                                      const DeviceLimits& device) {
  ChannelsLastTiling tiling;
  tiling.width = static_cast<int>(kVectorBytes / value_bytes);
  tiling.channels = extent.channels;
  tiling.numel = extent.numel();

  // The fewest rows that make whole vectors, then as many of those as fit a tile.
  tiling.fold = tiling.width / std::gcd<int64_t>(extent.channels, tiling.width);
  const int64_t shortest = tiling.fold * extent.channels / tiling.width;
  if (shortest < kTileColumns) tiling.fold *= kTileColumns / shortest;
  tiling.row_vectors = tiling.fold * extent.channels / tiling.width;
  const int64_t row_values = tiling.row_vectors * tiling.width;
  tiling.virtual_rows = ceil_div(tiling.numel, row_values);

  tiling.tiles =
      tiling.row_vectors <= kMaxTileColumns ? 1 : ceil_div(tiling.row_vectors, kTileColumns);
  tiling.columns = static_cast<int>(ceil_div(tiling.row_vectors, tiling.tiles));
  tiling.block = kBlock;
  tiling.rows = tiling.block / tiling.columns;

  const int64_t useful =
      std::max<int64_t>(1, tiling.virtual_rows / (kMinVectorsPerThread * tiling.rows));
  const int64_t wanted = std::max<int64_t>(1, wanted_units(device) / tiling.tiles);
  tiling.rows_per_split =
      round_up(ceil_div(tiling.virtual_rows, std::min(useful, wanted)), tiling.rows);
  tiling.splits = ceil_div(tiling.virtual_rows, tiling.rows_per_split);
  tiling.grid = std::min(tiling.units(), device.max_grid);

  const bool whole_row = tiling.tiles == 1;
  tiling.merged_width = whole_row ? extent.channels : tiling.columns * tiling.width;
  tiling.partial_row = whole_row ? extent.channels : row_values;
  return tiling;
}

// As many lanes as there are parts, so that a warp neither idles nor loops more than it must.
FinishLaunch finish_launch(int64_t channels, int64_t parts, const DeviceLimits& device) {
  FinishLaunch launch;
  while (launch.lanes < 32 && launch.lanes < parts) launch.lanes *= 2;
  launch.grid = std::min(ceil_div(channels, kBlock / launch.lanes), device.max_grid);
  return launch;
}

uintptr_t bits(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

}  // namespace

LaunchPolicy choose_policy(const Extent& extent, DType dtype, uintptr_t address_bits, bool reduces,
                           const DeviceLimits& device) {
  const int64_t value_bytes = static_cast<int64_t>(size_of(dtype));
  LaunchPolicy policy;
  policy.layout = extent.layout;
  int width = 1;
  if (extent.layout == Layout::kChannelsFirst) {
    policy.channels_first = tile_channels_first(extent, value_bytes, device);
    policy.parts = policy.channels_first.splits;
    width = policy.channels_first.width;
  } else {
    policy.channels_last = tile_channels_last(extent, value_bytes, device);
    policy.parts = policy.channels_last.splits * policy.channels_last.partial_row / extent.channels;
    width = policy.channels_last.width;
  }
  policy.aligned = address_bits % static_cast<uintptr_t>(width * value_bytes) == 0;
  if (!reduces) policy.parts = 0;
  policy.finish = finish_launch(extent.channels, policy.parts, device);

  const size_t partial_bytes = static_cast<size_t>(policy.parts * extent.channels) * kSumsBytes;
  policy.coefficients_offset =
      (partial_bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  policy.workspace_bytes =
      policy.coefficients_offset + static_cast<size_t>(extent.channels) * kCoefficientBytes;
  return policy;
}

bool needs_sums(const BackwardProblem& problem) {
  return problem.grad_weight.present() || problem.grad_bias.present() ||
         (problem.training && problem.grad_input != nullptr);
}

LaunchPolicy choose_policy(const TrainProblem& problem, const DeviceLimits& device) {
  return choose_policy(problem.extent, problem.dtype, bits(problem.input) | bits(problem.output),
                       true, device);
}

LaunchPolicy choose_policy(const InferenceProblem& problem, const DeviceLimits& device) {
  return choose_policy(problem.extent, problem.dtype, bits(problem.input) | bits(problem.output),
                       false, device);
}

LaunchPolicy choose_policy(const BackwardProblem& problem, const DeviceLimits& device) {
  return choose_policy(problem.extent, problem.dtype,
                       bits(problem.grad_output) | bits(problem.input) | bits(problem.grad_input),
                       needs_sums(problem), device);
}

}  // namespace torchbn::cuda
