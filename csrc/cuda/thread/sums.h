#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/gradient.h"
#include "core/host_device.h"
#include "core/statistics.h"

namespace torchbn::cuda {

// What one GPU thread adds up of a channel. Most GPUs do double arithmetic far slower than float,
// so a chunk of at most kMostFloats values is added in the type T that values are computed in, and
// its sums to those in double. Where a chunk's sums leave float's range its values are to be added
// again, in double: see in_range().

// Of the input's values, all that a thread adds in float before it goes over to double. Of a half
// type, which is coarser by itself, twice as many.
inline constexpr int kMostFloats = 16;

// Moments about the thread's own centre, a number near the mean of the first values that it sees:
// what is squared is then of the size of the channel's spread, wherever its values are, and an
// outlier spoils the centre of one thread at most.
template <typename T>
struct ThreadMoments {
  T center = 0;
  T first = 0;  // of the chunk
  T second = 0;
  ShiftedSums sums;  // of the chunks before

  // From the first `count` of some values, at least one. Without the least and the greatest of
  // them, one of which may be an outlier.
  //
  // Values about a centre that is finer than float is where they are would all be rounded in the
  // same direction. So it lies on a grid, 2^-20 of the range.
  static constexpr int kCenterValues = 4;
  TORCHBN_HOST_DEVICE void choose_center(const T (&x)[kCenterValues], int count) {
    T total = x[0];
    T least = x[0];
    T greatest = x[0];
    for (int i = 1; i < kCenterValues; ++i) {
      if (i >= count) continue;
      total += x[i];
      least = x[i] < least ? x[i] : least;
      greatest = x[i] > greatest ? x[i] : greatest;
    }
    const T others = total - least - greatest;
    const T middle = count > 3 ? others / 2 : count > 2 ? others : least;
    const T grid = 12 * (greatest - least);
    center = (middle + grid) - grid;
    // Infinities, NaN, or too large to be added.
    if (center - center != 0) center = least - least == 0 ? least : 0;
  }

  template <int kCount>
  TORCHBN_HOST_DEVICE void add(const T (&x)[kCount]) {
    T sum = 0;
    T squares = 0;
    for (int i = 0; i < kCount; ++i) {
      const T e = x[i] - center;
      sum += e;
      squares += e * e;
    }
    first += sum;
    second += squares;
  }
  TORCHBN_HOST_DEVICE void add_in_double(T x) {
    sums.add(static_cast<double>(x) - static_cast<double>(center));
  }

  // Not for infinities and NaN, nor for constant values.
  TORCHBN_HOST_DEVICE bool in_range() const {
    return sizeof(T) == sizeof(double) ||
           (second >= static_cast<T>(1e-30) && second <= static_cast<T>(3e38));
  }
  TORCHBN_HOST_DEVICE void drop_chunk() { first = second = 0; }
  TORCHBN_HOST_DEVICE void end_chunk() {
    sums.merge({static_cast<double>(first), static_cast<double>(second)});
    drop_chunk();
  }

  // Of all `count` values, about the pivot that all threads share.
  TORCHBN_HOST_DEVICE ShiftedSums about(double pivot, int64_t count) const {
    if (count == 0) return {};
    const double distance = static_cast<double>(center) - pivot;
    const double shift = static_cast<double>(count) * distance;
    return {sums.first + shift, sums.second + distance * (2 * sums.first + shift)};
  }
};

// Sums of gradients about `center`, which is the high part of the mean: recenter() puts that right
// once per channel. A chunk's errors are its length times 2^-24 of the sums of absolute values at
// most.
template <typename T>
struct ThreadGradients {
  T center = 0;
  T dy = 0;  // of the chunk
  T dy_centered = 0;
  GradientSums sums;  // of the chunks before

  template <int kCount>
  TORCHBN_HOST_DEVICE void add(const T (&grads)[kCount], const T (&x)[kCount]) {
    T sum = 0;
    T centered = 0;
    for (int i = 0; i < kCount; ++i) {
      sum += grads[i];
      centered += grads[i] * (x[i] - center);
    }
    dy += sum;
    dy_centered += centered;
  }
  TORCHBN_HOST_DEVICE void add_in_double(T grad, T x) {
    sums.add(grad, static_cast<double>(x) - static_cast<double>(center));
  }

  TORCHBN_HOST_DEVICE bool in_range() const {
    return sizeof(T) == sizeof(double) || (dy - dy == 0 && dy_centered - dy_centered == 0);
  }
  TORCHBN_HOST_DEVICE void drop_chunk() { dy = dy_centered = 0; }
  TORCHBN_HOST_DEVICE void end_chunk() {
    sums.merge({static_cast<double>(dy), static_cast<double>(dy_centered)});
    drop_chunk();
  }
};

// Turns sum(dy * (x - high)) into sum(dy * (x - mean)).
TORCHBN_HOST_DEVICE GradientSums recenter(GradientSums sums, double mean, double high) {
  sums.dy_centered -= low_part(mean, high) * sums.dy;
  return sums;
}

}  // namespace torchbn::cuda
