#pragma once

#include <cstdint>

#include "core/extent.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// What a thread may sum before it is mapped: about as much as a second-level cache holds.
inline constexpr int64_t kCoreBytes = 1024 * 1024;

// The last-level cache of one core complex of current servers. sysconf is no guide: virtual
// machines report the host's total.
inline constexpr int64_t kCacheBytes = 32 * 1024 * 1024;

// Are so many tensors of the extent's size more than a cache of so many bytes holds?
inline bool exceed(const Extent& e, int64_t element_size, int64_t tensors, int64_t cache_bytes) {
  return tensors * e.numel() * element_size > cache_bytes;
}

// Where the tensors of a call leave the last-level cache, an ordinary store would fetch each line
// it overwrites from memory and evict what is read again, and what is read first comes from memory.
// Of tensors that nearly fill it, some lines have been evicted.
inline vec::Origin inference_origin(const Extent& e, int64_t element_size) {
  if (exceed(e, element_size, 2, kCacheBytes)) return vec::Origin::kMemory;
  return exceed(e, element_size, 2, kCacheBytes / 2) ? vec::Origin::kBoth : vec::Origin::kCaches;
}

// Training needs input, output and their gradients, and between forward and backward other layers
// pass: a quarter of the cache is left to these.
inline bool training_past_cache(const Extent& e, int64_t element_size) {
  return exceed(e, element_size, 4, kCacheBytes / 4 * 3);
}

// Where training finds the tensors that it sums up, and those that it then maps. Of two that fill
// the cache, little is left when they have been gone through.
inline vec::Origin training_origin(const Extent& e, int64_t element_size) {
  if (!training_past_cache(e, element_size)) return vec::Origin::kCaches;
  return exceed(e, element_size, 2, kCacheBytes) ? vec::Origin::kMemory : vec::Origin::kBoth;
}
inline vec::Origin training_map_origin(const Extent& e, int64_t element_size) {
  return training_past_cache(e, element_size) ? vec::Origin::kMemory : vec::Origin::kCaches;
}

}  // namespace torchbn::cpu
