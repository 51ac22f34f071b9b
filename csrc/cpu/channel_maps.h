#pragma once

#include <cstdint>
#include <memory>

#include "core/affine.h"
#include "core/gradient.h"

namespace torchbn::cpu {

// The maps of a row of columns, one array per coefficient, as the column primitives read them.

template <typename V>
class ColumnAffine {
 public:
  explicit ColumnAffine(int64_t width) : width_(width), values_(new V[3 * width]) {}

  void set(int64_t i, const Affine<V>& map) {
    values_[i] = map.mean;
    values_[width_ + i] = map.scale;
    values_[2 * width_ + i] = map.shift;
  }
  Affine<const V*> from(int64_t column) const {
    const V* v = values_.get() + column;
    return {v, v + width_, v + 2 * width_};
  }

 private:
  int64_t width_;
  std::unique_ptr<V[]> values_;
};

template <typename V>
class ColumnGradient {
 public:
  explicit ColumnGradient(int64_t width) : width_(width), values_(new V[4 * width]) {}

  void set(int64_t i, const GradientCoefficients<V>& map) {
    values_[i] = map.mean;
    values_[width_ + i] = map.grad_scale;
    values_[2 * width_ + i] = map.input_scale;
    values_[3 * width_ + i] = map.shift;
  }
  GradientCoefficients<const V*> from(int64_t column) const {
    const V* v = values_.get() + column;
    return {v, v + width_, v + 2 * width_, v + 3 * width_};
  }

 private:
  int64_t width_;
  std::unique_ptr<V[]> values_;
};

}  // namespace torchbn::cpu
