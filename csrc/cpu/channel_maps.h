#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "core/affine.h"
#include "core/gradient.h"
#include "core/integers.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// The maps of all channels, one array per coefficient, as the primitives read them. Columns of a
// table repeat the channels, also behind the last column.
template <template <typename> typename Map, typename V>
class ChannelMaps {
 public:
  ChannelMaps(int64_t channels, int64_t width)
      : channels_(channels),
        columns_(width + vec::kRepeatedColumns),
        pitch_(round_up(columns_, 64 / sizeof(V))),
        values_(new (std::align_val_t(64)) V[sizeof(Map<V>) / sizeof(V) * pitch_]) {}

  // write(maps) sets the maps of the channels of a range, at whose first one `maps` points.
  template <typename F>
  void set(const vec::ChannelRange& range, const F& write) {
    write(at<V*>(values_.get() + range.begin));
    for (int64_t c = range.begin; c < range.begin + range.size; ++c) {
      for (int64_t i = c + channels_; i < columns_; i += channels_)
        at<V*>(values_.get()).each([&](V* values) { return values[i] = values[c]; });
    }
  }
  // Those from a column on.
  Map<const V*> from(int64_t column) const { return at<const V*>(values_.get() + column); }

 private:
  struct Delete {
    void operator()(V* values) const { operator delete[](values, std::align_val_t(64)); }
  };

  template <typename Pointer>
  Map<Pointer> at(Pointer first) const {
    return Map<V>().each([&](V) { return std::exchange(first, first + pitch_); });
  }

  int64_t channels_;
  int64_t columns_;
  int64_t pitch_;
  std::unique_ptr<V[], Delete> values_;
};

template <typename V>
using AffineMaps = ChannelMaps<Affine, V>;
template <typename V>
using GradientMaps = ChannelMaps<GradientCoefficients, V>;

}  // namespace torchbn::cpu
