#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

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

// parallel_for over items of `cost` elements each.
template <typename F>
void for_items(int64_t items, int64_t cost, const F& f) {
  at::parallel_for(0, items, div_up(kGrain, std::max<int64_t>(cost, 1)), f);
}

}  // namespace torchbn::cpu
