#pragma once

#include <ATen/Parallel.h>

#include <cstdint>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "cpu/split.h"

// at::parallel_for lives in a header and runs serially, in silence, when OpenMP is off.
#ifndef INTRA_OP_PARALLEL
#error "Compile the CPU kernels with OpenMP (-fopenmp)"
#endif

namespace torchbn::cpu {

// Orders stores past the caches before what follows; the inner loops leave that to us, once per
// task, because each time it waits for the stores.
inline void store_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// The threads that share a call; the schedules take another team in tests.
struct Team {
  int64_t size = at::in_parallel_region() ? 1 : at::get_num_threads();

  // f(begin, end) for parts of the items, concurrently.
  template <typename F>
  void for_items(int64_t items, int64_t cost, const F& f) const {
    const Parts parts(items, cost, size);
    at::parallel_for(0, parts.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t part = begin; part < end; ++part) f(parts.begin(part), parts.begin(part + 1));
      store_fence();
    });
  }
};

}  // namespace torchbn::cpu
