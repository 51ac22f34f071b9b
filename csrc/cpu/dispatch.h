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

// Do so many tensors together leave the last-level cache? The size is that of one core complex of
// current servers; sysconf is no guide, virtual machines report the host's total.
inline bool leave_cache(int64_t tensors, const Extent& e, int64_t element_size) {
  constexpr int64_t kCacheBytes = 32 * 1024 * 1024;
  return tensors * e.numel() * element_size > kCacheBytes;
}

// Input and output do: an ordinary store would fetch each line it overwrites from memory, and evict
// what is read again.
inline bool past_cache(const Extent& e, int64_t element_size) {
  return leave_cache(2, e, element_size);
}

// Those of a training step with their gradients do: what is read first comes from memory then, so
// prefetching it is worth the time.
inline bool comes_from_memory(const Extent& e, int64_t element_size) {
  return leave_cache(4, e, element_size);
}

}  // namespace torchbn::cpu
