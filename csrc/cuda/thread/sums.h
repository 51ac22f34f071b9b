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

// Moments about the thread's own centre, the mean of the first values that it sees: what is squared
// is then of the size of the channel's spread, wherever its values are. Where they go elsewhere the
// centre follows.
template <typename T>
struct ThreadMoments {
  T center = 0;
  T first = 0;  // of the chunk
  T second = 0;
  ShiftedSums sums;  // of the chunks before

  // From value(0), ..., value(count - 1); `count` is 1 to kMost.
  template <int kMost, typename F>
  TORCHBN_HOST_DEVICE void choose_center(int count, const F& value) {
    const T base = value(0);
    T total = 0;
    T range = 0;
    for (int i = 1; i < kMost; ++i) {
      if (i >= count) continue;
      const T e = value(i) - base;
      total += e;
      range = e > range ? e : -e > range ? -e : range;
    }
    center = on_grid(base + total / static_cast<T>(count), range);
    // Infinities, NaN, or too large to be added.
    if (center - center != 0) center = base - base == 0 ? base : 0;
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
  // A value that is the centre has nothing to add: planes of zeros cost no arithmetic in double.
  TORCHBN_HOST_DEVICE void add_in_double(T x) {
    if (x != center) sums.add(static_cast<double>(x) - static_cast<double>(center));
  }

  // Of a chunk of `count` values. Not for infinities and NaN, nor for constant values.
  TORCHBN_HOST_DEVICE bool in_range(int count) const {
    return sizeof(T) == sizeof(double) || (second >= static_cast<T>(1e-30) &&
                                           second <= static_cast<T>(1e37) && !off_center(count));
  }
  // The chunks before it hold `before` values.
  TORCHBN_HOST_DEVICE void drop_chunk(int count, int64_t before) {
    if (off_center(count)) move_center(first / static_cast<T>(count), before);
    first = second = 0;
  }
  TORCHBN_HOST_DEVICE void end_chunk() {
    sums.merge({static_cast<double>(first), static_cast<double>(second)});
    first = second = 0;
  }

  // Of all `count` values, about the pivot that all threads share.
  TORCHBN_HOST_DEVICE ShiftedSums about(double pivot, int64_t count) const {
    if (count == 0) return {};
    const double distance = static_cast<double>(center) - pivot;
    const double shift = static_cast<double>(count) * distance;
    return {sums.first + shift, sums.second + distance * (2 * sums.first + shift)};
  }

 private:
  // Values about a centre that is finer than float is where they are would all be rounded in the
  // same direction. So it lies on a grid, 2^-20 of the range.
  static TORCHBN_HOST_DEVICE T on_grid(T value, T range) {
    const T grid = 12 * range;
    return (value + grid) - grid;
  }

  // Are the squares about the centre more than eight times those about the chunk's own mean? They
  // bring as many times their rounding: to the variance up to 1e-4, where a thread begins with a
  // few values that stand out of a plane. In a chunk that adds more values in a row five times is
  // as bad.
  TORCHBN_HOST_DEVICE bool off_center(int count) const {
    const T share = static_cast<T>(count > kMostFloats ? 0.8 : 0.875);
    return first * first > share * static_cast<T>(count) * second;
  }
  // Of the sums of `count` values.
  TORCHBN_HOST_DEVICE void move_center(T offset, int64_t count) {
    const T moved = on_grid(center + offset, offset < 0 ? -offset : offset);
    if (moved - moved != 0) return;  // too large to be added
    sums = about(static_cast<double>(moved), count);
    center = moved;
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

  // Not for infinities and NaN, nor for products that have lost bits to underflow.
  TORCHBN_HOST_DEVICE bool in_range(int) const {
    if (sizeof(T) == sizeof(double)) return true;
    const bool finite = dy - dy == 0 && dy_centered - dy_centered == 0;
    const T size = dy_centered < 0 ? -dy_centered : dy_centered;
    return finite && (size >= static_cast<T>(1e-30) || dy == 0);
  }
  TORCHBN_HOST_DEVICE void drop_chunk(int, int64_t) { dy = dy_centered = 0; }
  TORCHBN_HOST_DEVICE void end_chunk() {
    sums.merge({static_cast<double>(dy), static_cast<double>(dy_centered)});
    dy = dy_centered = 0;
  }
};

// Turns sum(dy * (x - high)) into sum(dy * (x - mean)).
TORCHBN_HOST_DEVICE GradientSums recenter(GradientSums sums, double mean, double high) {
  sums.dy_centered -= low_part(mean, high) * sums.dy;
  return sums;
}

}  // namespace torchbn::cuda
