#pragma once

#include <cmath>
#include <cstdint>

#include "core/channel_vector.h"
#include "core/host_device.h"

namespace torchbn {

// First and second moment about a pivot K near the data: sum(x - K) and sum((x - K)^2), in double.
//
// With K = 0 the variance of data far from zero cancels: at mean/std = 1e6 nothing but noise is
// left of a float32 sum, and four digits of a double one. About a value of the channel, a rounding
// of 2^-53 weighs 1 + d^2 in the variance, d = |K - mean| / std: some 20 for ordinary data, and
// never more than n, the count, which it reaches when K is the one outlier. Even then 1e-6 is kept
// while n times the additions in a row that the reduction leaves is below some 1e10. A constant
// channel leaves exact zeros.
// Sums about the same pivot merge by addition, in an order that the problem's shape fixes.
// Aligned for GPUs, which then move both in one access.
struct alignas(16) ShiftedSums {
  double first = 0;
  double second = 0;

  TORCHBN_HOST_DEVICE void add(double shifted) {
    first += shifted;
    second += shifted * shifted;
  }
  TORCHBN_HOST_DEVICE void merge(const ShiftedSums& other) {
    first += other.first;
    second += other.second;
  }
};

// The pivot of a channel is one of its values. An infinite or NaN pivot would turn every difference
// into NaN; about zero the sums come out as IEEE arithmetic has them (the mean of a channel with
// one infinity is infinite).
TORCHBN_HOST_DEVICE double pivot_from(double value) {
  return value - value == 0 ? value : 0;
}

struct Statistics {
  double mean = 0;
  double variance = 0;  // biased
};

TORCHBN_HOST_DEVICE Statistics finish(const ShiftedSums& sums, double pivot, int64_t count) {
  const double n = static_cast<double>(count);
  const double shifted_mean = sums.first / n;
  // Squares may leave double's range, where the values have not: infinity - infinity would be NaN,
  // and it may already have been where sums moved from one pivot to another.
  const bool overflows = (sums.first - sums.first == 0) & (sums.second - sums.second != 0);
  const double variance = overflows ? HUGE_VAL : (sums.second - sums.first * shifted_mean) / n;
  // Rounding may leave a constant channel slightly negative; NaN fails the comparison and stays.
  return {pivot + shifted_mean, variance < 0 ? 0 : variance};
}

// 1 / sqrt(variance + eps); 0 where that is a division by zero, so that bias comes out.
TORCHBN_HOST_DEVICE double inverse_std(double variance, double eps) {
  const double shifted = variance + eps;
  return shifted == 0 ? 0 : 1 / sqrt(shifted);
}

// The running statistics of a layer; the vectors, the counter or both may be absent.
struct RunningStatistics {
  MutableChannelVector mean;
  MutableChannelVector var;
  int64_t* num_batches_tracked = nullptr;
  double momentum = 0;
  bool cumulative = false;  // momentum = 1 / batches tracked, this one included

  // Statistics are given both or neither.
  TORCHBN_HOST_DEVICE bool present() const { return mean.present(); }

  // Weight of the new batch, where there are running statistics. Reads the counter before it is
  // incremented.
  TORCHBN_HOST_DEVICE double factor() const {
    return cumulative ? 1 / (static_cast<double>(*num_batches_tracked) + 1) : momentum;
  }

  // new = (1 - factor) * old + factor * batch, with the unbiased variance of the batch.
  TORCHBN_HOST_DEVICE void update(int64_t channel, const Statistics& batch, int64_t count) const {
    if (!present()) return;
    const double n = static_cast<double>(count);
    const double f = factor();
    mean.store(channel, (1 - f) * mean.load(channel) + f * batch.mean);
    var.store(channel, (1 - f) * var.load(channel) + f * (batch.variance * n / (n - 1)));
  }
};

}  // namespace torchbn
