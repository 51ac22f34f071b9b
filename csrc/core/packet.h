#pragma once

#include "core/affine.h"
#include "core/gradient.h"
#include "core/host_device.h"
#include "core/statistics.h"

namespace torchbn {

// Adding a packet, the few values that a GPU thread loads at once, to sums kept in double. Most
// GPUs do double arithmetic far slower than float, so the work per value is done in float and the
// work per packet in double.

// With m the packet's mean about the pivot as float has it, and e = (x - K) - m:
//
//   sum(x - K)     = n m + sum(e)
//   sum((x - K)^2) = sum(e^2) + 2 m sum(e) + n m^2
//
// Both hold whatever m is, so its rounding costs nothing; e is of the size of the packet's own
// spread, even when the pivot is an outlier, and so are the errors that float makes. Where the
// squares leave float's range (infinities, NaN, constant packets too) the values are added in
// double.
template <int kCount>
TORCHBN_HOST_DEVICE void add_packet(ShiftedSums& sums, const float (&x)[kCount], float pivot) {
  float total = 0;
  for (int i = 0; i < kCount; ++i) total += x[i] - pivot;
  const float mean = total * (1.0f / kCount);

  float residual = 0;
  float squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const float e = (x[i] - pivot) - mean;
    residual += e;
    squares += e * e;
  }

  if (squares >= 1e-30f && squares <= 3e38f) {
    const double m = mean;
    const double r = residual;
    const double first = kCount * m + r;
    sums.first += first;
    sums.second += squares + m * (first + r);
  } else {
    for (int i = 0; i < kCount; ++i) sums.add(static_cast<double>(x[i]) - pivot);
  }
}

template <int kCount>
TORCHBN_HOST_DEVICE void add_packet(ShiftedSums& sums, const double (&x)[kCount], double pivot) {
  for (int i = 0; i < kCount; ++i) sums.add(x[i] - pivot);
}

// Leaves dy_centered about `center`, which is the high part of the mean: recenter() puts that right
// once per channel. Errors are kCount * 2^-24 of the sums of absolute values at most. Sums that
// leave float's range are made again in double.
template <int kCount>
TORCHBN_HOST_DEVICE void add_packet(GradientSums& sums, const float (&dy)[kCount],
                                    const float (&x)[kCount], float center) {
  float grad = 0;
  float centered = 0;
  for (int i = 0; i < kCount; ++i) {
    grad += dy[i];
    centered += dy[i] * (x[i] - center);
  }
  if (grad - grad == 0 && centered - centered == 0) {
    sums.dy += grad;
    sums.dy_centered += centered;
  } else {
    for (int i = 0; i < kCount; ++i) sums.add(dy[i], static_cast<double>(x[i]) - center);
  }
}

template <int kCount>
TORCHBN_HOST_DEVICE void add_packet(GradientSums& sums, const double (&dy)[kCount],
                                    const double (&x)[kCount], double center) {
  for (int i = 0; i < kCount; ++i) sums.add(dy[i], x[i] - center);
}

// Turns sum(dy * (x - high)) into sum(dy * (x - mean)).
TORCHBN_HOST_DEVICE GradientSums recenter(GradientSums sums, double mean, double high) {
  sums.dy_centered -= low_part(mean, high) * sums.dy;
  return sums;
}

}  // namespace torchbn
