#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/integers.h"
#include "cpu/caches.h"
#include "cpu/parallel.h"
#include "cpu/split.h"
#include "cpu/table.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// A channels-last operation has
//   kSummedBytes                           that add_columns reads of an element
//   void add_columns(offset, strip, column, first, second)
//                                          to arrays of sums that begin at `column`
//   void finish(channels, first, second)   the two sums of each
//   bool maps_at_once() const              as for channels first, or else after all sums
//   bool maps_afterwards() const
//   void map_columns(offset, strip, column)

// How many rows of so many bytes are summed before they are mapped: the longer, the seldomer
// reading and storing take turns, as long as a core's cache keeps them. Cut where the sums keep
// their bits: these do not depend on what is mapped.
inline int64_t rows_at_once(int64_t row_bytes) {
  constexpr int64_t kRows = vec::kRowsTogether;
  return std::max(kCoreBytes / 2 / row_bytes / kRows * kRows, kRows);
}

// Adds rows to the sums that begin at the panel, and maps them piece by piece if that is done at
// once.
template <typename Operation>
void add_rows(const Table2d& table, int64_t row, int64_t rows, const Panel& panel,
              bool maps_at_once, double* first, double* second, Operation& op) {
  const int64_t step = maps_at_once ? rows_at_once(panel.width * Operation::kSummedBytes) : rows;
  for (const int64_t end = row + rows; row < end; row += step) {
    const int64_t offset = row * table.width + panel.begin;
    const vec::Strip strip{std::min(step, end - row), panel.width, table.width};
    op.add_columns(offset, strip, panel.begin, first, second);
    if (maps_at_once) op.map_columns(offset, strip, panel.begin);
  }
}

template <typename Operation>
void sum_chunk(const Table2d& table, int64_t chunk, const Panel& panel, bool maps_at_once,
               double* partial, Operation& op) {
  const int64_t channels = table.channels;
  double* first = partial + chunk * 2 * channels;
  double* second = first + channels;
  const int64_t row = chunk * table.rows_per_chunk;
  const int64_t rows = std::min(table.rows_per_chunk, table.rows - row);
  if (table.copies == 1) {
    std::fill_n(first + panel.begin, panel.width, 0.0);
    std::fill_n(second + panel.begin, panel.width, 0.0);
    add_rows(table, row, rows, panel, maps_at_once, first + panel.begin, second + panel.begin, op);
    return;
  }
  alignas(64) double columns[2][Table2d::kMaxCopiedWidth];
  std::fill_n(columns[0], table.width, 0.0);
  std::fill_n(columns[1], table.width, 0.0);
  add_rows(table, row, rows, panel, maps_at_once, columns[0], columns[1], op);
  if (chunk + 1 == table.chunks && table.rest > 0)
    add_rows(table, table.rows, 1, {0, table.rest}, maps_at_once, columns[0], columns[1], op);
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
  constexpr int64_t kTogether = 64;
  const int64_t channels = table.channels;
  // Finishing a channel costs about as much as summing 16 elements.
  team.for_items(channels, table.chunks + 16, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c += kTogether) {
      const int64_t n = std::min(kTogether, end - c);
      double first[kTogether] = {}, second[kTogether] = {};
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
    latest_first(begin, end, table.width, [&](int64_t row, int64_t last) {
      op.map_columns(row * table.width, {last - row, table.width, table.width}, 0);
    });
  });
  if (table.rest > 0) {
    op.map_columns(table.rows * table.width, {1, table.rest, table.width}, 0);
    store_fence();
  }
}

template <typename Operation, typename AnyTeam = Team>
void run_channels_last(const Table2d& table, Operation& op, const AnyTeam& team = {}) {
  const bool whole_rows = rows_suffice(table, table.rows_per_chunk, team.size);
  const Panels panels(table, whole_rows ? 1 : ceil_div(kItemsPerThread * team.size, table.chunks));
  // Panels of different threads meet in cache lines, which maps would pass to and fro: what stays
  // in the threads' caches is rather mapped by rows, after all sums.
  const bool stays = table.rows * table.width * Operation::kSummedBytes <= team.size * kCoreBytes;
  const bool maps_at_once = op.maps_at_once() && (whole_rows || !stays);
  const std::unique_ptr<double[]> partial(new double[table.chunks * 2 * table.channels]);
  team.for_items(table.chunks * panels.count,
                 std::min(table.rows, table.rows_per_chunk) * table.width / panels.count,
                 [&](int64_t begin, int64_t end) {
                   for_lines(begin, end, table.chunks,
                             [&](int64_t panel, int64_t count, int64_t chunk, int64_t last) {
                               const Panel columns = panels.range(panel, panel + count);
                               for (; chunk < last; ++chunk)
                                 sum_chunk(table, chunk, columns, maps_at_once, partial.get(), op);
                             });
                 });
  finish_channels(table, partial.get(), op, team);
  if (op.maps_afterwards() || op.maps_at_once() != maps_at_once) map_channels_last(table, op, team);
}

}  // namespace torchbn::cpu
