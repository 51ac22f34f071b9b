#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

// at::parallel_for lives in a header and runs serially, in silence, when OpenMP is off.
#ifndef INTRA_OP_PARALLEL
#error "Compile the CPU kernels with OpenMP (-fopenmp)"
#endif

namespace torchbn::cpu {

// Elements that are worth a thread: some 5 us of work, about what waking one costs.
inline constexpr int64_t kGrain = 16384;

inline int64_t div_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Orders stores past the caches before what follows; the inner loops leave that to us, once per
// task, because each time it waits for the stores.
inline void store_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// parallel_for over items of `cost` elements each.
template <typename F>
void for_items(int64_t items, int64_t cost, const F& f) {
  const int64_t grain = div_up(kGrain, std::max<int64_t>(cost, 1));
  at::parallel_for(0, items, grain, [&](int64_t begin, int64_t end) {
    f(begin, end);
    store_fence();
  });
}

// The same in pieces, each thread's last one first: whoever went through the items before, a pass
// of ours or the layer that made them, has left the last ones in the caches. Pieces are long enough
// to be streams of their own.
template <typename F>
void for_items_latest_first(int64_t items, int64_t cost, const F& f) {
  constexpr int64_t kPiece = 65536;
  const int64_t piece = std::max<int64_t>(kPiece / std::max<int64_t>(cost, 1), 1);
  for_items(items, cost, [&](int64_t begin, int64_t end) {
    for (int64_t last = end; last > begin; last -= piece) f(std::max(begin, last - piece), last);
  });
}

}  // namespace torchbn::cpu
