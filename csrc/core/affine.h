#pragma once

#include "core/host_device.h"
#include "core/multiply_add.h"

namespace torchbn {

// What normalisation does to one channel: y = (x - mean) * scale + shift.
//
// The statistics are double, T may be float. x * a + (b - mean * a) would cancel where
// |mean| >> std, and so would a mean rounded to float. Here `mean` is the high part of the mean
// (x - mean is exact near it) and the low part goes into the shift, folded in double once per
// channel. At mean/std = 1e6 this leaves an error of 5e-7 where a single float mean leaves 8e-4.
template <typename T>
struct Affine {
  T mean;
  T scale;
  T shift;

  TORCHBN_HOST_DEVICE T operator()(T x) const { return multiply_add<T>(x - mean, scale, shift); }

  // The map of f(coefficient), called in the order above.
  template <typename F>
  TORCHBN_HOST_DEVICE auto each(const F& f) const -> Affine<decltype(f(mean))> {
    return {f(mean), f(scale), f(shift)};
  }
  // The same of f(coefficient, that of another map).
  template <typename U, typename F>
  TORCHBN_HOST_DEVICE auto each(const Affine<U>& other, const F& f) const
      -> Affine<decltype(f(mean, other.mean))> {
    return {f(mean, other.mean), f(scale, other.scale), f(shift, other.shift)};
  }
};

// What rounding the mean took from it. An infinite mean has no low part: inf - inf would make NaN
// of the infinities that a running mean of inf stands for.
TORCHBN_HOST_DEVICE double low_part(double mean, double high) {
  return high - high == 0 ? mean - high : 0;
}

template <typename T>
TORCHBN_HOST_DEVICE Affine<T> fold_affine(double mean, double invstd, double weight, double bias) {
  const T high = static_cast<T>(mean);
  const double low = low_part(mean, static_cast<double>(high));
  const double scale = weight * invstd;
  return {high, static_cast<T>(scale), static_cast<T>(bias - low * scale)};
}

}  // namespace torchbn
