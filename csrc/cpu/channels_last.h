#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/extent.h"
#include "cpu/parallel.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// A tensor in the layout (N, S, C) as rows of columns. Few channels would waste most of a vector:
// then a row holds `copies` consecutive positions, whose columns repeat the channels, and the
// positions left over make a short last row. Columns and chunks of rows follow from the extent
// alone, and chunks merge in order: so any thread may sum any chunk and the bits stay.
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

// A channels-last operation has
//   void add_columns(offset, strip, column, first, second)
//                                          to arrays of sums that begin at `column`
//   void finish(channels, first, second)   the two sums of each
//   bool maps_at_once() const              as for channels first
//   bool maps_afterwards() const
//   void map_columns(offset, strip, column)

// Adds rows to the sums that begin at the panel. What is mapped at once is mapped after as many
// rows as are summed together at least.
template <typename Operation>
void add_rows(const Table2d& table, int64_t row, int64_t rows, const Panel& panel, double* first,
              double* second, Operation& op) {
  constexpr int64_t kStep = 64;
  const int64_t step = op.maps_at_once() ? kStep : std::max<int64_t>(rows, 1);
  for (const int64_t end = row + rows; row < end; row += step) {
    const int64_t offset = row * table.width + panel.begin;
    const vec::Strip strip{std::min(step, end - row), panel.width, table.width};
    op.add_columns(offset, strip, panel.begin, first, second);
    if (op.maps_at_once()) op.map_columns(offset, strip, panel.begin);
  }
}

template <typename Operation>
void sum_chunk(const Table2d& table, int64_t chunk, const Panel& panel, double* partial,
               Operation& op) {
  const int64_t channels = table.channels;
  double* first = partial + chunk * 2 * channels;
  double* second = first + channels;
  const int64_t row = chunk * table.rows_per_chunk;
  const int64_t rows = std::min(table.rows_per_chunk, table.rows - row);
  if (table.copies == 1) {
    std::fill_n(first + panel.begin, panel.width, 0.0);
    std::fill_n(second + panel.begin, panel.width, 0.0);
    add_rows(table, row, rows, panel, first + panel.begin, second + panel.begin, op);
    return;
  }
  alignas(64) double columns[2][Table2d::kMaxCopiedWidth];
  std::fill_n(columns[0], table.width, 0.0);
  std::fill_n(columns[1], table.width, 0.0);
  add_rows(table, row, rows, panel, columns[0], columns[1], op);
  if (chunk + 1 == table.chunks && table.rest > 0)
    add_rows(table, table.rows, 1, {0, table.rest}, columns[0], columns[1], op);
  for (int64_t c = 0; c < channels; ++c) {
    first[c] = second[c] = 0;
    for (int64_t i = c; i < table.width; i += channels) {
      first[c] += columns[0][i];
      second[c] += columns[1][i];
    }
  }
}

template <typename Operation, typename AnyTeam>
void finish_channels(const Table2d& table, const double* partial, Operation& op,
                     const AnyTeam& team) {
  constexpr int64_t kBlock = 64;
  const int64_t channels = table.channels;
  // Finishing a channel costs about as much as summing 16 elements.
  team.for_items(channels, table.chunks + 16, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c += kBlock) {
      const int64_t n = std::min(kBlock, end - c);
      double first[kBlock] = {}, second[kBlock] = {};
      for (int64_t chunk = 0; chunk < table.chunks; ++chunk) {
        const double* from = partial + chunk * 2 * channels + c;
        for (int64_t i = 0; i < n; ++i) first[i] += from[i];
        for (int64_t i = 0; i < n; ++i) second[i] += from[channels + i];
      }
      op.finish({c, n}, first, second);
    }
  });
}

template <typename Operation, typename AnyTeam = Team>
void map_channels_last(const Table2d& table, const Operation& op, const AnyTeam& team = {}) {
  if (!rows_suffice(table, 1, team.size)) {
    const Panels panels(table, team.size);
    team.for_items(
        panels.count, table.rows * table.width / panels.count, [&](int64_t begin, int64_t end) {
          const Panel panel = panels.range(begin, end);
          op.map_columns(panel.begin, {table.rows, panel.width, table.width}, panel.begin);
        });
    return;
  }
  team.for_items(table.rows, table.width, [&](int64_t begin, int64_t end) {
    latest_first(begin, end, table.width, [&](int64_t first, int64_t last) {
      op.map_columns(first * table.width, {last - first, table.width, table.width}, 0);
    });
  });
  if (table.rest > 0) {
    op.map_columns(table.rows * table.width, {1, table.rest, table.width}, 0);
    store_fence();
  }
}

template <typename Operation, typename AnyTeam = Team>
void run_channels_last(const Table2d& table, Operation& op, const AnyTeam& team = {}) {
  // Eight items or more for each thread: one more or less matters little then.
  const bool whole_rows = rows_suffice(table, table.rows_per_chunk, team.size);
  const Panels panels(table, whole_rows ? 1 : ceil_div(8 * team.size, table.chunks));
  const std::unique_ptr<double[]> partial(new double[table.chunks * 2 * table.channels]);
  team.for_items(table.chunks * panels.count,
                 std::min(table.rows, table.rows_per_chunk) * table.width / panels.count,
                 [&](int64_t begin, int64_t end) {
                   for_lines(begin, end, table.chunks,
                             [&](int64_t panel, int64_t count, int64_t first, int64_t last) {
                               const Panel columns = panels.range(panel, panel + count);
                               for (int64_t chunk = first; chunk < last; ++chunk)
                                 sum_chunk(table, chunk, columns, partial.get(), op);
                             });
                 });
  finish_channels(table, partial.get(), op, team);
  if (op.maps_afterwards()) map_channels_last(table, op, team);
}

}  // namespace torchbn::cpu
