#pragma once

// As cuda_runtime_api.h: the asynchronous copies to shared memory.

#include <cstddef>

#include "cuda/simulated/device.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t size) {
  torchbn::simulated::copy_later(to, from, size);
}
inline void __pipeline_commit() {
  torchbn::simulated::commit_copies();
}
inline void __pipeline_wait_prior(int pending) {
  torchbn::simulated::wait_for_copies(pending);
}
