#include "cuda/tilings.h"

#include <algorithm>
#include <numeric>

namespace torchbn::cuda {

namespace {

// A thread that reads fewer vectors than this costs more in merging than it wins in parallelism.
constexpr int64_t kMinVectorsPerThread = 4;

int full_width(DType dtype) {
  return kVectorBytes / static_cast<int>(size_of(dtype));
}

// Full vectors, for two-byte types also half ones (14 * 14 planes), or single values: every width
// is a kernel of its own.
int widest_dividing(int64_t spatial, DType dtype) {
  const int full = full_width(dtype);
  if (spatial % full == 0) return full;
  if (size_of(dtype) == 2 && spatial % (full / 2) == 0) return full / 2;
  return 1;
}

// Items per split where `items` are read `at_once`.
int64_t split_size(int64_t items, int64_t at_once, int64_t parts) {
  const int64_t useful = std::max<int64_t>(1, items / (kMinVectorsPerThread * at_once));
  return round_up(ceil_div(items, std::clamp<int64_t>(parts, 1, useful)), at_once);
}

}  // namespace

ChannelsFirstTiling tile_channels_first(const Extent& extent, DType dtype) {
  ChannelsFirstTiling tiling;
  tiling.width = widest_dividing(extent.spatial, dtype);
  tiling.channels = extent.channels;
  tiling.plane = extent.spatial / tiling.width;
  tiling.vectors = extent.batch * tiling.plane;

  // Channels of few values get small blocks rather than idle threads.
  tiling.block = kBlock;
  while (tiling.block > 32 && tiling.vectors < kMinVectorsPerThread * tiling.block)
    tiling.block /= 2;

  const int64_t values_per_sample = extent.channels * extent.spatial;
  tiling.step_position = tiling.block % tiling.plane;
  tiling.step_offset =
      tiling.block / tiling.plane * values_per_sample + tiling.step_position * tiling.width;
  tiling.wrap_offset = values_per_sample - extent.spatial;
  return tiling;
}

ChannelsLastTiling tile_channels_last(const Extent& extent, DType dtype, int columns,
                                      int longest_row) {
  ChannelsLastTiling tiling;
  tiling.width = width_across(size_of(dtype));
  tiling.channels = extent.channels;
  tiling.numel = extent.numel();

  // The fewest rows that make whole vectors, then as many of those as fit a tile.
  tiling.fold = tiling.width / std::gcd<int64_t>(extent.channels, tiling.width);
  const int64_t shortest = tiling.fold * extent.channels / tiling.width;
  if (shortest < columns) tiling.fold *= columns / shortest;
  tiling.row_vectors = tiling.fold * extent.channels / tiling.width;
  const int64_t row_values = tiling.row_vectors * tiling.width;
  tiling.virtual_rows = ceil_div(tiling.numel, row_values);

  tiling.tiles = tiling.row_vectors <= longest_row ? 1 : ceil_div(tiling.row_vectors, columns);
  tiling.columns = static_cast<int>(ceil_div(tiling.row_vectors, tiling.tiles));
  tiling.rows = tiling.block / tiling.columns;

  const bool whole_row = tiling.tiles == 1;
  tiling.merged_width = whole_row ? extent.channels : tiling.columns * tiling.width;
  tiling.partial_row = whole_row ? extent.channels : row_values;
  return tiling;
}

ChannelsLastTiling tile_planes(const Extent& extent, DType dtype, int columns) {
  ChannelsLastTiling tiling;
  tiling.width = width_across(size_of(dtype));
  tiling.channels = extent.channels;
  tiling.plane = extent.spatial;
  tiling.numel = extent.numel();
  tiling.virtual_rows = extent.batch;

  // The fewest planes that make whole vectors, then as many of those as `columns` take.
  const int64_t sample = extent.channels * extent.spatial;
  const int64_t fewest = tiling.width / std::gcd<int64_t>(extent.spatial, tiling.width);
  const int64_t shortest = fewest * extent.spatial / tiling.width;
  if (widest_dividing(extent.spatial, dtype) > 1 || sample % tiling.width != 0 || shortest > kBlock)
    return tiling;
  const int64_t most = std::max<int64_t>(1, columns / shortest);
  tiling.row_vectors = sample / tiling.width;
  tiling.columns = static_cast<int>(std::min(most * shortest, tiling.row_vectors));
  tiling.rows = tiling.block / tiling.columns;
  tiling.tiles = ceil_div(tiling.row_vectors, tiling.columns);
  tiling.merged_width = tiling.columns * tiling.width;
  tiling.partial_row = sample;
  return tiling;
}

void divide(ChannelsFirstTiling& tiling, int64_t parts) {
  tiling.vectors_per_split = split_size(tiling.vectors, tiling.block, parts);
  tiling.splits = ceil_div(tiling.vectors, tiling.vectors_per_split);
}

void divide(ChannelsLastTiling& tiling, int64_t parts) {
  tiling.rows_per_split = split_size(tiling.virtual_rows, tiling.rows, parts);
  tiling.splits = ceil_div(tiling.virtual_rows, tiling.rows_per_split);
}

}  // namespace torchbn::cuda
