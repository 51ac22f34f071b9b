#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/host_device.h"
#include "core/multiply_add.h"

namespace torchbn {

// The gradient of batch normalization (Ioffe & Szegedy 2015, section 3), per channel of n values.
//
//   xhat = (x - mean) * invstd,  y = weight * xhat + bias
//   d_bias   = sum(dy)
//   d_weight = sum(dy * xhat) = invstd * sum(dy * (x - mean))
//
// In evaluation mean and invstd are constants: dx = weight * invstd * dy. In training both depend
// on x, which takes from dy its mean and its component along xhat:
//
//   dx = weight * invstd * (dy - d_bias / n - xhat * d_weight / n)

// Sums over a channel, in double, merged by addition in an order fixed by the problem's shape.
// Aligned as ShiftedSums are.
struct alignas(16) GradientSums {
  double dy = 0;           // sum(dy)
  double dy_centered = 0;  // sum(dy * (x - mean))

  TORCHBN_HOST_DEVICE void add(double grad, double centered) {
    dy += grad;
    dy_centered += grad * centered;
  }
  TORCHBN_HOST_DEVICE void merge(const GradientSums& other) {
    dy += other.dy;
    dy_centered += other.dy_centered;
  }
  TORCHBN_HOST_DEVICE double grad_bias() const { return dy; }
  TORCHBN_HOST_DEVICE double grad_weight(double invstd) const { return dy_centered * invstd; }
};

// dx = grad_scale * dy + input_scale * (x - mean) + shift. Centred for the reason given for
// Affine: input_scale * x + constant loses 4e-2 at mean/std = 1e6.
template <typename T>
struct GradientCoefficients {
  T mean;
  T grad_scale;
  T input_scale;
  T shift;

  TORCHBN_HOST_DEVICE T operator()(T dy, T x) const {
    return multiply_add<T>(dy, grad_scale, multiply_add<T>(x - mean, input_scale, shift));
  }

  // As of Affine.
  template <typename F>
  TORCHBN_HOST_DEVICE auto each(const F& f) const -> GradientCoefficients<decltype(f(mean))> {
    return {f(mean), f(grad_scale), f(input_scale), f(shift)};
  }
  template <typename U, typename F>
  TORCHBN_HOST_DEVICE auto each(const GradientCoefficients<U>& other, const F& f) const
      -> GradientCoefficients<decltype(f(mean, other.mean))> {
    return {f(mean, other.mean), f(grad_scale, other.grad_scale), f(input_scale, other.input_scale),
            f(shift, other.shift)};
  }
};

template <typename T>
TORCHBN_HOST_DEVICE GradientCoefficients<T> fold_gradient(const GradientSums& sums, double mean,
                                                          double invstd, double weight,
                                                          int64_t count) {
  const T high = static_cast<T>(mean);
  const double low = low_part(mean, static_cast<double>(high));
  const double n = static_cast<double>(count);
  const double grad_scale = weight * invstd;
  const double input_scale = -grad_scale * invstd * sums.grad_weight(invstd) / n;
  const double shift = -grad_scale * sums.grad_bias() / n - input_scale * low;
  return {high, static_cast<T>(grad_scale), static_cast<T>(input_scale), static_cast<T>(shift)};
}

// In evaluation, dx = weight * invstd * dy.
template <typename T>
TORCHBN_HOST_DEVICE Affine<T> fold_evaluation_gradient(double invstd, double weight) {
  return {0, static_cast<T>(weight * invstd), 0};
}

}  // namespace torchbn
