#pragma once

#include <algorithm>
#include <cstdint>

#include "core/integers.h"

namespace torchbn::cpu {

// Elements that are worth a thread: some 5 us of work, about what waking one costs.
inline constexpr int64_t kGrain = 16384;

// Where items are cut for sharing, at least so many for each thread: one more or less matters
// little then.
inline constexpr int64_t kItemsPerThread = 8;

// Items of `cost` elements each, shared out among threads: a part for each thread, fewer where
// parts would not be worth one. No part has more than one item more than another.
struct Parts {
  Parts(int64_t all, int64_t cost, int64_t threads)
      : items(all),
        count(std::min(threads, ceil_div(all, ceil_div(kGrain, std::max<int64_t>(cost, 1))))) {}

  // Part i holds the items [begin(i), begin(i + 1)).
  int64_t begin(int64_t part) const { return items / count * part + std::min(part, items % count); }

  int64_t items;
  int64_t count;
};

// Does sharing out items of `size` elements, the last one perhaps a shorter one, give no thread
// more than 1.25 times its share of `all` elements?
inline bool shares_evenly(int64_t all, int64_t size, int64_t threads) {
  const int64_t most = ceil_div(ceil_div(all, size), threads) * size;
  return most * threads * 4 <= all * 5;
}

// Walks the items [begin, end) of lines of `length` items each: f(line, lines, first, last) stands
// for the items [first, last) of so many lines; whole lines come together.
template <typename F>
void for_lines(int64_t begin, int64_t end, int64_t length, const F& f) {
  while (begin < end) {
    const int64_t first = begin % length;
    const int64_t lines = first == 0 ? std::max<int64_t>((end - begin) / length, 1) : 1;
    const int64_t last = std::min(length, first + end - begin);
    f(begin / length, lines, first, last);
    begin += lines == 1 ? last - first : lines * length;
  }
}

// Walks the items [begin, end) of `cost` elements each in pieces, the last one first: f(first,
// last). Whoever went through them before, a pass of ours or the layer that made them, has left the
// last ones in the caches. Each piece is a new stream to the prefetchers: shorter ones cost up to a
// tenth, longer ones would be more than a core keeps.
template <typename F>
void latest_first(int64_t begin, int64_t end, int64_t cost, const F& f) {
  constexpr int64_t kPiece = 512 * 1024;
  const int64_t piece = std::max<int64_t>(kPiece / std::max<int64_t>(cost, 1), 1);
  for (; end > begin; end -= piece) f(std::max(begin, end - piece), end);
}

}  // namespace torchbn::cpu
