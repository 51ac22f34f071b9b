#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/dtype.h"
#include "core/extent.h"
#include "core/host_device.h"
#include "core/integers.h"

namespace torchbn::cuda {

// How a tensor, which begins on a vector's boundary, is divided among blocks and threads, as data.
// It follows from the extent, the dtype and the device, so that a result is the same bits on every
// run. The words for it:
//
//   vector   neighbouring values that a thread loads at once, of up to 16 bytes
//   plane    the S values of one channel in one sample, in the layout (N, C, S)
//   row      the C values of one sample in (N, C); some of them make a virtual row
//   group    channels whose sums are complete together
//   split    one of the parts that a group's values are cut into
//   unit     a split of a group: what a block takes at once
//   tile     a unit's vectors in channels-last: columns side by side in some virtual rows
//   part     one of the partial sums of a channel, one from each split and folded row
//   cluster  blocks that see each other's shared memory and share a group: of resident kernels
//   team     the same by way of global memory; all teams run at once: of cooperative kernels
//   round    what all teams hold at once, where there are more groups than teams

// The widest load of a thread.
inline constexpr int kVectorBytes = 16;
// Threads of a block: enough warps to hide latency, few enough to leave each thread 128 registers
// with two blocks on a multiprocessor.
inline constexpr int kBlock = 256;

// Values of a vector whose lanes are of different channels: each of them takes sums and
// coefficients in a thread's registers.
inline constexpr int kMostAcross = 4;
constexpr int width_across(size_t value_bytes) {
  const int full = kVectorBytes / static_cast<int>(value_bytes);
  return full < kMostAcross ? full : kMostAcross;
}

// The longest virtual row, in vectors, that is one channels-last tile.
inline constexpr int kLongestRow = 64;

// Where the sum `i` of a stack lies. Neighbouring threads have some neighbouring sums each: gaps
// keep more of them in different banks.
TORCHBN_HOST_DEVICE constexpr int in_stack(int i) {
  return i + i / 16;
}

// The channels come in groups, whose sums are complete when those of its `splits` units are merged.
// Unit = split * groups + group: neighbouring units are neighbouring channels of the same samples.
// One block reduces or transforms a unit, and its threads take `pitch` vectors at once.

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
  TORCHBN_HOST_DEVICE int pitch() const { return block; }
  // Of a thread, in a unit.
  TORCHBN_HOST_DEVICE int64_t thread_vectors() const { return vectors_per_split / block; }

  // A group is a channel, whose sums are one value.
  TORCHBN_HOST_DEVICE int place_of_sums(int) const { return 0; }
  TORCHBN_HOST_DEVICE bool tiles_are_groups() const { return true; }
  TORCHBN_HOST_DEVICE int64_t groups() const { return channels; }
  TORCHBN_HOST_DEVICE int64_t first_channel(int64_t group) const { return group; }
  TORCHBN_HOST_DEVICE int64_t channels_of(int64_t) const { return 1; }
};

// Channels-last, (N, C): `fold` rows of C values are one virtual row, which makes vectors of full
// width possible for every C and fills a block where C is small. A work unit is a tile of `columns`
// vectors by some virtual rows; a thread stays in one column.
// Channels-first with planes that are no whole vectors can be divided in the same way: a row is
// then a sample of C planes, and a tile is made of whole planes.
struct ChannelsLastTiling {
  int width = 1;
  int block = kBlock;
  int columns = 1;  // vectors side by side in a tile
  int rows = 1;     // virtual rows that a block reads at once; rows * columns <= block
  int64_t grid = 1;
  int64_t channels = 0;
  int64_t plane = 1;  // neighbouring values of a row that are of the same channel
  int64_t numel = 0;  // the last virtual row may stop short
  int64_t fold = 1;
  int64_t row_vectors = 0;  // per virtual row, fold * C * plane / width
  int64_t virtual_rows = 0;
  int64_t rows_per_split = 0;
  int64_t splits = 0;
  int64_t tiles = 0;  // across a virtual row
  // Partial sums that a unit leaves. A tile as wide as the virtual row merges its folded rows and
  // leaves one per channel; others leave one per virtual column.
  int64_t merged_width = 0;
  int64_t partial_row = 0;  // partial sums per split, C or fold * C

  TORCHBN_HOST_DEVICE int64_t units() const { return tiles * splits; }
  TORCHBN_HOST_DEVICE int pitch() const { return rows * columns; }
  TORCHBN_HOST_DEVICE int64_t thread_vectors() const { return rows_per_split / rows; }

  // A group is a tile, unless channels lie in several of them. Its sums have a row of the stack,
  // those of a channel a plane of it.
  TORCHBN_HOST_DEVICE bool tiles_are_groups() const {
    return tiles == 1 || (tiles > 1 && fold == 1);
  }
  TORCHBN_HOST_DEVICE int64_t groups() const { return tiles; }
  TORCHBN_HOST_DEVICE int place_of_sums(int channel_of_group) const {
    return in_stack(channel_of_group * static_cast<int>(plane));
  }
  TORCHBN_HOST_DEVICE int64_t first_channel(int64_t group) const {
    return group * (merged_width / plane);
  }
  TORCHBN_HOST_DEVICE int64_t channels_of(int64_t group) const {
    return lesser(channels - first_channel(group), merged_width / plane);
  }

  // The sums of a unit, one for every lane of `pitch` vectors, are a stack of rows of
  // `merged_width`; merging it takes room for its lower half.
  TORCHBN_HOST_DEVICE int stack_height() const {
    return pitch() * width / static_cast<int>(merged_width);
  }
  TORCHBN_HOST_DEVICE int stack_room() const {
    return (stack_height() + 1) / 2 * static_cast<int>(merged_width);
  }
};

// Blocks of each kernel that a multiprocessor holds, so that one computes while others wait for
// memory: what its registers are shared out to. Across channels every lane of a vector takes some.
constexpr int blocks_reducing_across(size_t value_bytes) {
  return value_bytes == 2 ? 3 : 2;
}
inline constexpr int kReducingBlocks = 3;  // along channels
inline constexpr int kTransformingBlocks = 4;
template <typename Tiling>
inline constexpr int kResidentBlocks = std::is_same_v<Tiling, ChannelsFirstTiling> ? 4 : 2;
inline constexpr int kCooperativeBlocks = 2;
inline constexpr int kSummingBlocks = 2;

// All but grid and splits, for which see divide(). A channels-last tile has some `columns` vectors
// side by side, or a whole virtual row of up to `longest_row`, which is kLongestRow at most.
ChannelsFirstTiling tile_channels_first(const Extent& extent, DType dtype);
ChannelsLastTiling tile_channels_last(const Extent& extent, DType dtype, int columns,
                                      int longest_row);

// Channels-first divided as channels-last is, in tiles of about `columns` vectors. Without tiles
// where planes are vectors anyway, samples are not, or planes are too long for a block.
ChannelsLastTiling tile_planes(const Extent& extent, DType dtype, int columns);

// Makes splits of one size, `parts` of them or less, the last one shorter and none of them empty.
void divide(ChannelsFirstTiling& tiling, int64_t parts);
void divide(ChannelsLastTiling& tiling, int64_t parts);

}  // namespace torchbn::cuda
