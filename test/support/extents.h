#pragma once

#include <string>

#include "core/extent.h"

// Extents for the tests of what sees no tensors.
namespace torchbn::test {

// Of images in a layout; of more than one pixel, or there is but one layout.
inline Extent extent_of(int64_t batch, int64_t channels, int64_t spatial, Layout layout) {
  if (layout == Layout::kChannelsLast) return {batch * spatial, channels, 1};
  return {batch, channels, spatial};
}

inline int64_t channel_of(const Extent& e, int64_t i) {
  return i / e.spatial % e.channels;
}

inline std::string describe(const Extent& e) {
  return "N" + std::to_string(e.batch) + " C" + std::to_string(e.channels) + " S" +
         std::to_string(e.spatial);
}

}  // namespace torchbn::test
