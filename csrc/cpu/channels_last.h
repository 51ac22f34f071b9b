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
        rows_per_chunk(std::max(kMinRows, div_up(rows, kMaxChunks))),
        chunks(std::max<int64_t>(div_up(rows, rows_per_chunk), 1)) {}

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

// How the columns are shared out when the rows cannot keep the threads busy. Only the work is cut:
// a column's result does not depend on its panel.
struct Panels {
  Panels(const Table2d& table, int64_t row_items) : width(table.width) {
    const int64_t threads = at::get_num_threads();
    const bool split = table.copies == 1 && row_items < 2 * threads &&
                       table.width * std::max<int64_t>(table.rows, 1) > kGrain;
    const int64_t wanted = split ? div_up(2 * threads, row_items) : 1;
    step = std::max<int64_t>(div_up(div_up(width, wanted), kStep) * kStep, kStep);
    // A last panel narrower than a vector joins its neighbour.
    count = std::max<int64_t>((width + step - vec::kLanes) / step, 1);
  }

  static constexpr int64_t kStep = 32;  // two cache lines of float

  Panel operator[](int64_t i) const {
    const int64_t begin = i * step;
    return {begin, (i + 1 == count ? width : begin + step) - begin};
  }

  int64_t width;
  int64_t step;
  int64_t count;
};

// A channels-last operation has
//   Sums                                           two sums per channel
//   void add(offset, strip, column, first, second) to arrays of sums that begin at `column`
//   void finish(channel, sums)                     fills all copies of the channel's column
//   bool maps() const
//   void map(offset, strip, column)

template <typename Operation>
void sum_chunk(const Table2d& table, int64_t chunk, const Panel& panel, double* partial,
               Operation& op) {
  const int64_t channels = table.channels;
  double* first = partial + chunk * 2 * channels;
  double* second = first + channels;
  const int64_t row = chunk * table.rows_per_chunk;
  const int64_t rows = std::min(table.rows_per_chunk, table.rows - row);
  const vec::Strip strip{rows, panel.width, table.width};
  if (table.copies == 1) {
    std::fill_n(first + panel.begin, panel.width, 0.0);
    std::fill_n(second + panel.begin, panel.width, 0.0);
    op.add(row * table.width + panel.begin, strip, panel.begin, first + panel.begin,
           second + panel.begin);
    return;
  }
  alignas(64) double columns[2][Table2d::kMaxCopiedWidth];
  std::fill_n(columns[0], table.width, 0.0);
  std::fill_n(columns[1], table.width, 0.0);
  op.add(row * table.width, strip, 0, columns[0], columns[1]);
  if (chunk + 1 == table.chunks && table.rest > 0)
    op.add(table.rows * table.width, {1, table.rest, table.width}, 0, columns[0], columns[1]);
  for (int64_t c = 0; c < channels; ++c) {
    first[c] = second[c] = 0;
    for (int64_t i = c; i < table.width; i += channels) {
      first[c] += columns[0][i];
      second[c] += columns[1][i];
    }
  }
}

template <typename Operation>
void finish_channels(const Table2d& table, const double* partial, Operation& op) {
  using Sums = typename Operation::Sums;
  constexpr int64_t kBlock = 64;
  const int64_t channels = table.channels;
  // Finishing a channel costs about as much as summing 64 elements.
  for_items(channels, table.chunks + 64, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c += kBlock) {
      const int64_t n = std::min(kBlock, end - c);
      double first[kBlock] = {}, second[kBlock] = {};
      for (int64_t chunk = 0; chunk < table.chunks; ++chunk) {
        const double* from = partial + chunk * 2 * channels + c;
        for (int64_t i = 0; i < n; ++i) first[i] += from[i];
        for (int64_t i = 0; i < n; ++i) second[i] += from[channels + i];
      }
      for (int64_t i = 0; i < n; ++i) op.finish(c + i, Sums{first[i], second[i]});
    }
  });
}

template <typename Operation>
void map_channels_last(const Table2d& table, const Operation& op) {
  const Panels panels(table, table.rows);
  if (panels.count > 1) {
    for_items(panels.count, table.rows * panels.step, [&](int64_t begin, int64_t end) {
      const int64_t column = panels[begin].begin;
      const Panel last = panels[end - 1];
      op.map(column, {table.rows, last.begin + last.width - column, table.width}, column);
    });
    return;
  }
  for_items_latest_first(table.rows, table.width, [&](int64_t begin, int64_t end) {
    op.map(begin * table.width, {end - begin, table.width, table.width}, 0);
  });
  if (table.rest > 0) {
    op.map(table.rows * table.width, {1, table.rest, table.width}, 0);
    store_fence();
  }
}

template <typename Operation>
void run_channels_last(const Table2d& table, Operation& op) {
  const Panels panels(table, table.chunks);
  const std::unique_ptr<double[]> partial(new double[table.chunks * 2 * table.channels]);
  for_items(table.chunks * panels.count, std::min(table.rows, table.rows_per_chunk) * panels.step,
            [&](int64_t begin, int64_t end) {
              for (int64_t i = begin; i < end; ++i)
                sum_chunk(table, i / panels.count, panels[i % panels.count], partial.get(), op);
            });
  finish_channels(table, partial.get(), op);
  if (op.maps()) map_channels_last(table, op);
}

}  // namespace torchbn::cpu
