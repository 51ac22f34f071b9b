#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/extent.h"

namespace torchbn::cpu {

// f(T{}) with T the type that `dtype` names.
template <typename F>
void with_type(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat16:
      return f(Float16{});
  }
}

// A plane of one value makes the two layouts the same; channels-last then has the longer runs.
inline bool runs_channels_first(const Extent& e) {
  return e.layout == Layout::kChannelsFirst && e.spatial > 1;
}

// Do the tensors that a call is part of leave the last-level cache: input and output in evaluation,
// both and their gradients in training? Then an ordinary store would fetch each line it overwrites
// from memory and evict what is read again, and what is read first comes from memory. The size is
// that of one core complex of current servers; sysconf is no guide, virtual machines report the
// host's total.
inline bool past_cache(const Extent& e, int64_t element_size, int64_t tensors) {
  constexpr int64_t kCacheBytes = 32 * 1024 * 1024;
  return tensors * e.numel() * element_size > kCacheBytes;
}

}  // namespace torchbn::cpu
