#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/extent.h"
#include "cpu/vec/primitives.h"

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

// The last-level cache of one core complex of current servers. sysconf is no guide: virtual
// machines report the host's total.
inline constexpr int64_t kCacheBytes = 32 * 1024 * 1024;

// Are so many tensors of the extent's size more than it holds?
inline bool exceed_cache(const Extent& e, int64_t element_size, int64_t tensors) {
  return tensors * e.numel() * element_size > kCacheBytes;
}

// Do the tensors of a call leave that cache? Then an ordinary store would fetch each line it
// overwrites from memory and evict what is read again, and what is read first comes from memory.
inline bool inference_past_cache(const Extent& e, int64_t element_size) {
  return exceed_cache(e, element_size, 2);
}

// Training needs input, output and their gradients, and between forward and backward other layers
// pass: a quarter of the cache is left to these.
inline bool training_past_cache(const Extent& e, int64_t element_size) {
  return 4 * e.numel() * element_size > kCacheBytes / 4 * 3;
}

// Where training finds the tensors that it sums up. Of two that fill the cache, little is left when
// they have been gone through.
inline vec::Origin training_origin(const Extent& e, int64_t element_size) {
  if (!training_past_cache(e, element_size)) return vec::Origin::kCaches;
  return exceed_cache(e, element_size, 2) ? vec::Origin::kMemory : vec::Origin::kBoth;
}

}  // namespace torchbn::cpu
