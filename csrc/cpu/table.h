#pragma once

#include <algorithm>
#include <cstdint>

#include "core/extent.h"
#include "core/integers.h"
#include "cpu/split.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// A channels-last tensor as rows of columns. Few channels would waste most of a vector: then a row
// holds `copies` consecutive positions, whose columns repeat the channels, and the positions left
// over make a short last row. Columns and chunks of rows follow from the extent alone, and chunks
// merge in order: so any thread may sum any chunk and the bits stay.
struct Table2d {
  explicit Table2d(const Extent& e)
      : channels(e.channels),
        copies(copies_of(e.channels)),
        width(copies * channels),
        rows(e.count() / copies),
        rest(e.count() % copies * channels),
        rows_per_chunk(std::max(kMinRows, ceil_div(rows, kMaxChunks))),
        chunks(std::max<int64_t>(ceil_div(rows, rows_per_chunk), 1)) {}

  // A chunk leaves 16 bytes per column: little beside 128 rows. Many chunks would make merging
  // slow, few could not be shared out among threads.
  static constexpr int64_t kMinRows = 128;
  static constexpr int64_t kMaxChunks = 128;
  // From this many channels on a partial vector at the end of a row costs little.
  static constexpr int64_t kWide = 32;
  static constexpr int64_t kMaxCopiedWidth = 512;

  // The least number that makes a row at least 64 columns and whole vectors.
  static int64_t copies_of(int64_t channels) {
    if (channels >= kWide) return 1;
    int64_t copies = 1;
    while (copies * channels < 64 || copies * channels % vec::kLanes != 0) ++copies;
    return copies;
  }

  // Of `columns` those of the channels are there: copies them to the others.
  void repeat(double* columns) const {
    for (int64_t i = channels; i < width; i += channels)
      std::copy_n(columns, channels, columns + i);
  }

  int64_t channels;
  int64_t copies;
  int64_t width;
  int64_t rows;
  int64_t rest;  // columns of the short last row
  int64_t rows_per_chunk;
  int64_t chunks;
};

// Columns [begin, begin + width) of a table.
struct Panel {
  int64_t begin;
  int64_t width;
};

// Columns in panels of whole blocks, for where the rows alone cannot keep the threads busy. Only
// the work is cut: a column's result does not depend on its panel.
struct Panels {
  Panels(const Table2d& table, int64_t wanted)
      : width(table.width),
        blocks(std::max<int64_t>((width + kBlock - vec::kLanes) / kBlock, 1)),
        count(std::clamp<int64_t>(wanted, 1, blocks)) {}

  static constexpr int64_t kBlock = 32;  // two cache lines of float

  // The panels [first, last) as one.
  Panel range(int64_t first, int64_t last) const {
    const int64_t begin = blocks * first / count * kBlock;
    return {begin, (last == count ? width : blocks * last / count * kBlock) - begin};
  }

  int64_t width;
  int64_t blocks;  // a last one narrower than a vector belongs to its neighbour
  int64_t count;
};

// Are pieces of `rows` rows enough to share out?
inline bool rows_suffice(const Table2d& table, int64_t rows, int64_t threads) {
  return table.copies > 1 || table.width * table.rows <= kGrain ||
         shares_evenly(table.rows, rows, threads);
}

}  // namespace torchbn::cpu
