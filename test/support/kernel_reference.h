#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "core/channel_vector.h"
#include "core/problem.h"
#include "support/extents.h"

// Batch normalization written plainly: two passes over doubles.
namespace torchbn::test {

using Doubles = std::vector<double>;

// A typed array of any dtype whose first element may be misaligned to `offset` elements.
class Buffer {
 public:
  Buffer(DType dtype, int64_t size, int64_t offset = 0)
      : dtype_(dtype), size_(size), offset_(offset), bytes_(size_of(dtype) * (size + offset)) {}
  Buffer(DType dtype, const Doubles& values, int64_t offset = 0)
      : Buffer(dtype, static_cast<int64_t>(values.size()), offset) {
    for (int64_t i = 0; i < size_; ++i) vector().store(i, values[i]);
  }

  void* data() { return bytes_.data() + size_of(dtype_) * offset_; }
  MutableChannelVector vector() { return {data(), 1, dtype_}; }
  ChannelVector view() { return {data(), 1, dtype_}; }
  double operator[](int64_t i) { return view().load(i); }
  Doubles values() {
    Doubles result(size_);
    for (int64_t i = 0; i < size_; ++i) result[i] = view().load(i);
    return result;
  }
  bool same_bits(const Buffer& other) const { return bytes_ == other.bytes_; }

 private:
  DType dtype_;
  int64_t size_;
  int64_t offset_;
  std::vector<unsigned char> bytes_;
};

inline Doubles normal(int64_t size, double mean, double std, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> draw(mean, std);
  Doubles values(size);
  for (double& value : values) value = draw(engine);
  return values;
}

struct Reference {
  Doubles mean, variance, invstd;

  Reference(const Extent& e, const Doubles& x, double eps)
      : mean(e.channels), variance(e.channels), invstd(e.channels) {
    for (int64_t i = 0; i < e.numel(); ++i) mean[channel_of(e, i)] += x[i];
    for (double& sum : mean) sum /= static_cast<double>(e.count());
    for (int64_t i = 0; i < e.numel(); ++i) {
      const int64_t c = channel_of(e, i);
      variance[c] += (x[i] - mean[c]) * (x[i] - mean[c]);
    }
    for (double& sum : variance) sum /= static_cast<double>(e.count());
    for (int64_t c = 0; c < e.channels; ++c) invstd[c] = 1 / std::sqrt(variance[c] + eps);
  }
};

struct ReferenceGradient {
  Doubles input, weight, bias;

  ReferenceGradient(const Extent& e, const Doubles& dy, const Doubles& x, const Doubles& w,
                    const Doubles& mean, const Doubles& invstd, bool training)
      : input(e.numel()), weight(e.channels), bias(e.channels) {
    const auto xhat = [&](int64_t i) {
      const int64_t c = channel_of(e, i);
      return (x[i] - mean[c]) * invstd[c];
    };
    for (int64_t i = 0; i < e.numel(); ++i) {
      bias[channel_of(e, i)] += dy[i];
      weight[channel_of(e, i)] += dy[i] * xhat(i);
    }
    for (int64_t i = 0; i < e.numel(); ++i) {
      const int64_t c = channel_of(e, i);
      const double mean_part = training ? (bias[c] + xhat(i) * weight[c]) / e.count() : 0;
      input[i] = w[c] * invstd[c] * (dy[i] - mean_part);
    }
  }
};

// Half a unit in the last place, relative to a power of two.
inline double half_ulp(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 0x1p-24;
    case DType::kFloat64:
      return 0x1p-53;
    case DType::kBFloat16:
      return 0x1p-8;
    case DType::kFloat16:
      return 0x1p-11;
  }
  return 0;
}

// The arithmetic the result was computed in, before it was rounded to dtype.
inline double compute_ulp(DType dtype) {
  return dtype == DType::kFloat64 ? 0x1p-44 : 0x1p-24;  // float64 sums lose some bits
}

}  // namespace torchbn::test
