#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "core/affine.h"
#include "core/dtype.h"
#include "core/gradient.h"
#include "core/integers.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// A map to values of T. Vector code rounds to bfloat16 by integer arithmetic, in which a NaN with a
// payload, a weight perhaps, might become a number: coefficients are NaN without one.
template <typename T, typename Map>
Map for_values_of(const Map& map) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return map.each([](float value) { return value == value ? value : NAN; });
  else
    return map;
}

// The maps of the columns of a table, one array per coefficient, as the column primitives read
// them: channels repeat, also behind the last column.
template <template <typename> typename Map, typename V>
class ColumnMaps {
 public:
  ColumnMaps(int64_t channels, int64_t width)
      : channels_(channels),
        columns_(width + vec::kRepeatedColumns),
        pitch_(round_up(columns_, 64 / sizeof(V))),
        values_(new (std::align_val_t(64)) V[sizeof(Map<V>) / sizeof(V) * pitch_]) {}

  void set(int64_t channel, const Map<V>& map) {
    for (int64_t i = channel; i < columns_; i += channels_) {
      V* to = values_.get() + i;
      map.each([&](V value) {
        *to = value;
        to += pitch_;
        return value;
      });
    }
  }
  Map<const V*> from(int64_t column) const {
    const V* values = values_.get() + column;
    return Map<V>().each([&](V) { return std::exchange(values, values + pitch_); });
  }

 private:
  struct Delete {
    void operator()(V* values) const { operator delete[](values, std::align_val_t(64)); }
  };

  int64_t channels_;
  int64_t columns_;
  int64_t pitch_;
  std::unique_ptr<V[], Delete> values_;
};

template <typename V>
using ColumnAffine = ColumnMaps<Affine, V>;
template <typename V>
using ColumnGradient = ColumnMaps<GradientCoefficients, V>;

}  // namespace torchbn::cpu
