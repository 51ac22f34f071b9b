#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace torchbn {

// How a tensor lies in memory, its axes slowest first.
enum class Layout : uint8_t {
  kChannelsFirst,  // (N, C, S)
  kChannelsLast,   // (N, C)
};

// What is left of an input of any rank, as it lies in memory: (N, C, S), slowest first. Axes
// outside of the channels are batch, those within them are spatial: so channels-last images are a
// batch of pixels. Statistics are taken per channel over both.
struct Extent {
  int64_t batch = 0;
  int64_t channels = 0;
  int64_t spatial = 0;

  // With planes of one value both layouts are the same: channels-last then has the longer runs.
  TORCHBN_HOST_DEVICE Layout layout() const {
    return spatial > 1 ? Layout::kChannelsFirst : Layout::kChannelsLast;
  }

  // Values per channel.
  TORCHBN_HOST_DEVICE int64_t count() const { return batch * spatial; }
  TORCHBN_HOST_DEVICE int64_t numel() const { return batch * channels * spatial; }
  // Where a value lies, and a channel's first one.
  TORCHBN_HOST_DEVICE int64_t offset(int64_t image, int64_t channel, int64_t position) const {
    return (image * channels + channel) * spatial + position;
  }
  TORCHBN_HOST_DEVICE int64_t first_value(int64_t channel) const { return offset(0, channel, 0); }
};

}  // namespace torchbn
