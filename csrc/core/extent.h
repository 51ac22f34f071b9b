#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace torchbn {

// How the three axes of an Extent lie in memory, slowest first.
enum class Layout : uint8_t {
  kChannelsFirst,  // (N, C, S)
  kChannelsLast,   // (N, S, C); also 2-D inputs of more than one channel
};

// What is left of an input of any rank: statistics are taken per channel over batch and spatial, to
// which axes belong as they lie in memory, outside of the channels or within them.
struct Extent {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t spatial = 0;
  Layout layout = Layout::kChannelsFirst;

  // Values per channel.
  TORCHBN_HOST_DEVICE int64_t count() const { return batch * spatial; }
  TORCHBN_HOST_DEVICE int64_t numel() const { return batch * channels * spatial; }

  bool operator==(const Extent&) const = default;
};

}  // namespace torchbn
