#pragma once

#include <cstdint>
#include <type_traits>

#include "core/host_device.h"
#include "core/integers.h"
#include "cuda/tilings.h"

namespace torchbn::cuda {

// Which vectors a thread visits, and in which order. The units of a tiling and the threads of its
// block together visit every vector of the tensor exactly once.

// A part of a group of channels. Neighbouring units are neighbouring groups of the same samples:
// contiguous in memory.
struct Unit {
  int64_t split;
  int64_t group;
};

// Of a group, or past the last one a unit whose walks are empty.
template <typename Tiling>
TORCHBN_HOST_DEVICE Unit unit_of(const Tiling& tiling, int64_t split, int64_t group) {
  return group < tiling.groups() ? Unit{split, group} : Unit{tiling.splits, 0};
}

template <typename Tiling>
TORCHBN_HOST_DEVICE Unit unit_at(const Tiling& tiling, int64_t number) {
  const int64_t split = number / tiling.groups();
  return {split, number - split * tiling.groups()};
}

// A part of one channel, (N, C, S). `next` is an offset in values.
struct ChannelsFirstWalk {
  int64_t channel = 0;
  int64_t next = 0;
  int left = 0;  // vectors, this thread's

  TORCHBN_HOST_DEVICE ChannelsFirstWalk(const ChannelsFirstTiling& tiling, Unit unit, int thread)
      : channel(unit.group) {
    const int64_t begin = unit.split * tiling.vectors_per_split;
    const int64_t wanted_end = begin + tiling.vectors_per_split;
    const int64_t end = lesser(wanted_end, tiling.vectors);
    const int64_t first = begin + thread;
    if (first >= end) return;
    left = static_cast<int>(ceil_div(end - first, tiling.block));
    go_to(tiling, first);
  }

  // To the thread's vector of this number, in the same unit.
  TORCHBN_HOST_DEVICE void go_to(const ChannelsFirstTiling& tiling, Unit unit, int thread,
                                 int number) {
    go_to(tiling, unit.split * tiling.vectors_per_split + thread + int64_t{number} * tiling.block);
  }

  TORCHBN_HOST_DEVICE void step(const ChannelsFirstTiling& tiling) {
    next += tiling.step_offset;
    position_ += tiling.step_position;
    if (position_ >= tiling.plane) {
      position_ -= tiling.plane;
      next += tiling.wrap_offset;
    }
  }
  TORCHBN_HOST_DEVICE void step_back(const ChannelsFirstTiling& tiling) {
    next -= tiling.step_offset;
    position_ -= tiling.step_position;
    if (position_ < 0) {
      position_ += tiling.plane;
      next -= tiling.wrap_offset;
    }
  }

  // Where the next vector is loaded from.
  TORCHBN_HOST_DEVICE int64_t from() const { return next; }
  TORCHBN_HOST_DEVICE bool empty() const { return left == 0; }

  // Of the channel's first value, which is its pivot.
  TORCHBN_HOST_DEVICE int64_t first_value(const ChannelsFirstTiling& tiling) const {
    return channel * tiling.plane * tiling.width;
  }

 private:
  TORCHBN_HOST_DEVICE void go_to(const ChannelsFirstTiling& tiling, int64_t vector) {
    const int64_t sample = vector / tiling.plane;
    position_ = vector - sample * tiling.plane;
    next = ((sample * tiling.channels + channel) * tiling.plane + position_) * tiling.width;
  }

  int64_t position_ = 0;  // vectors within the plane
};

// The channels of neighbouring lanes, one after the other, cyclically.
struct LaneChannel {
  int64_t channel = 0;
  int64_t left = 1;  // of the plane, this lane included

  TORCHBN_HOST_DEVICE void step(const ChannelsLastTiling& tiling) {
    if (--left > 0) return;
    left = tiling.plane;
    channel = channel + 1 == tiling.channels ? 0 : channel + 1;
  }

  // Of the channel's first value, which is its pivot.
  TORCHBN_HOST_DEVICE int64_t first_value(const ChannelsLastTiling& tiling) const {
    return channel * tiling.plane;
  }
};

// A column of a tile, (rows, C). The very last vector of a tensor may be a short one.
struct ChannelsLastWalk {
  LaneChannel first_lane;
  int64_t next = 0;
  int left = 0;          // whole vectors, this thread's
  int short_vector = 0;  // values of the short vector that follows them; 0 for all threads but one

  TORCHBN_HOST_DEVICE ChannelsLastWalk(const ChannelsLastTiling& tiling, Unit unit, int thread) {
    const int row_in_tile = thread / tiling.columns;
    const int64_t column = unit.group * tiling.columns + (thread - row_in_tile * tiling.columns);
    const int64_t begin = unit.split * tiling.rows_per_split;
    const int64_t wanted_end = begin + tiling.rows_per_split;
    const int64_t end = lesser(wanted_end, tiling.virtual_rows);
    const int64_t first = begin + row_in_tile;
    const int64_t value = column * tiling.width;
    const int64_t planes = tiling.plane == 1 ? value : value / tiling.plane;
    first_lane = {planes % tiling.channels, (planes + 1) * tiling.plane - value};
    if (row_in_tile >= tiling.rows || column >= tiling.row_vectors || first >= end) return;
    left = static_cast<int>(ceil_div(end - first, tiling.rows));
    next = (first * tiling.row_vectors + column) * tiling.width;

    const int64_t last = next + (left - 1) * distance(tiling);
    const int64_t present = tiling.numel - last;
    if (present >= tiling.width) return;
    left -= 1;
    short_vector = present > 0 ? static_cast<int>(present) : 0;
  }

  // From one vector of a thread to its next.
  static TORCHBN_HOST_DEVICE int64_t distance(const ChannelsLastTiling& tiling) {
    return tiling.rows * tiling.row_vectors * tiling.width;
  }
  TORCHBN_HOST_DEVICE void step(const ChannelsLastTiling& tiling) { next += distance(tiling); }
  TORCHBN_HOST_DEVICE void step_back(const ChannelsLastTiling& tiling) { next -= distance(tiling); }

  // From the first vector to that of this number.
  TORCHBN_HOST_DEVICE void go_to(const ChannelsLastTiling& tiling, Unit, int, int number) {
    next += number * distance(tiling);
  }
  // The short vector's place, from the first vector.
  TORCHBN_HOST_DEVICE int64_t short_begin(const ChannelsLastTiling& tiling) const {
    return next + left * distance(tiling);
  }

  TORCHBN_HOST_DEVICE int64_t from() const { return next; }
  TORCHBN_HOST_DEVICE bool empty() const { return left == 0 && short_vector == 0; }
};

template <typename Tiling>
using WalkOver = std::conditional_t<std::is_same_v<Tiling, ChannelsFirstTiling>, ChannelsFirstWalk,
                                    ChannelsLastWalk>;

// From a thread's last vector back to that of the number `first`.
template <typename Walk>
struct BackwardWalk : Walk {
  template <typename Tiling>
  TORCHBN_HOST_DEVICE BackwardWalk(const Walk& walk, const Tiling& tiling, Unit unit, int thread,
                                   int first)
      : Walk(walk) {
    this->left = walk.left - first;
    if (this->left > 0) this->go_to(tiling, unit, thread, walk.left - 1);
  }

  template <typename Tiling>
  TORCHBN_HOST_DEVICE void step(const Tiling& tiling) {
    this->step_back(tiling);
  }
};

// A walk over a thread's first vectors, of which there are copies `distance` values apart; `next`
// is still their place in the tensor.
template <typename Walk>
struct KeptWalk : Walk {
  TORCHBN_HOST_DEVICE KeptWalk(const Walk& walk, int from, int distance, int kept)
      : Walk(walk), from_(from), distance_(distance) {
    if (this->left > kept) this->left = kept;
  }

  template <typename Tiling>
  TORCHBN_HOST_DEVICE void step(const Tiling& tiling) {
    Walk::step(tiling);
    from_ += distance_;
  }

  TORCHBN_HOST_DEVICE int from() const { return from_; }

 private:
  int from_;
  int distance_;
};

}  // namespace torchbn::cuda
