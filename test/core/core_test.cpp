// core/ by itself: no torch, no kernels.

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "core/affine.h"
#include "core/channel_vector.h"
#include "core/dtype.h"
#include "core/extent.h"
#include "core/gradient.h"
#include "core/statistics.h"

namespace torchbn {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// ---- Statistics -------------------------------------------------------------------------------

Statistics statistics_of(const std::vector<double>& values) {
  const double pivot = pivot_from(values.front());
  ShiftedSums sums;
  for (double value : values) sums.add(value - pivot);
  return finish(sums, pivot, static_cast<int64_t>(values.size()));
}

TEST(StatisticsTest, KnownValues) {
  const Statistics statistics = statistics_of({1, 2, 3, 4});
  EXPECT_EQ(statistics.mean, 2.5);
  EXPECT_EQ(statistics.variance, 1.25);
}

TEST(StatisticsTest, LargeMeansCancelNothing) {
  // mean/std = 1e9: what float64 can tell apart there is still exact.
  const Statistics statistics = statistics_of({1e9 + 1, 1e9 + 2, 1e9 + 3, 1e9 + 4});
  EXPECT_EQ(statistics.mean, 1e9 + 2.5);
  EXPECT_EQ(statistics.variance, 1.25);
}

TEST(StatisticsTest, OutlierAsPivotCostsNoMoreThanItsDistance) {
  // One value at 1e6, then 0, 1, 0, 1, ...: d^2 is about n.
  std::vector<double> values(100001);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(i % 2);
  values[0] = 1e6;
  const auto n = static_cast<double>(values.size());
  const double mean = (1e6 + 50000) / n;
  const double variance = (1e12 + 50000) / n - mean * mean;
  // n additions in a row: n * 2^-53 * (1 + d^2), and the like for the mean.
  const double pivot_distance = (1e6 - mean) / std::sqrt(variance);
  const double tolerance = n * 0x1p-53 * (1 + pivot_distance * pivot_distance);
  const Statistics statistics = statistics_of(values);
  EXPECT_NEAR(statistics.mean, mean, n * 0x1p-53 * 1e6);
  EXPECT_NEAR(statistics.variance / variance, 1, tolerance);
}

TEST(StatisticsTest, ConstantChannelIsExact) {
  for (double constant : {0.0, 0.1, -1e-30, 1e30, 3.4e38, 65504.0, 1 / 3.0}) {
    const Statistics statistics = statistics_of(std::vector<double>(1000, constant));
    EXPECT_EQ(statistics.mean, constant);
    EXPECT_EQ(statistics.variance, 0);
  }
}

TEST(StatisticsTest, VarianceIsNeverNegative) {
  // sum of squares minus square of sum, both rounded, can fall below zero.
  for (int64_t count : {3, 7, 49, 1000003}) {
    const double n = static_cast<double>(count);
    const double shifted = 1 / 3.0;
    const ShiftedSums sums{n * shifted, std::nextafter(n * shifted * shifted, 0.0)};
    EXPECT_GE(finish(sums, 5, count).variance, 0);
  }
}

TEST(StatisticsTest, InfinitiesAndNaNPropagateAsInSums) {
  for (size_t place : {0, 1, 3}) {
    std::vector<double> values = {1, 2, 3, 4};
    values[place] = -kInfinity;
    EXPECT_EQ(statistics_of(values).mean, -kInfinity);
    EXPECT_TRUE(std::isnan(statistics_of(values).variance));
    values[place] = kNaN;
    EXPECT_TRUE(std::isnan(statistics_of(values).mean));
    EXPECT_TRUE(std::isnan(statistics_of(values).variance));
  }
  EXPECT_TRUE(std::isnan(statistics_of({kInfinity, 1, -kInfinity}).mean));
}

// The squares of these values leave double's range.
TEST(StatisticsTest, HugeValuesHaveAnInfiniteVariance) {
  for (double huge : {1e160, 1e300}) {
    const Statistics statistics = statistics_of({0, huge, -huge, huge / 2});
    EXPECT_EQ(statistics.mean, huge / 8);
    EXPECT_EQ(statistics.variance, kInfinity);
  }
}

TEST(StatisticsTest, MergingPartsAddsThem) {
  ShiftedSums left, right, all;
  for (double value : {1, 2, 3}) left.add(value), all.add(value);
  for (double value : {10, 20}) right.add(value), all.add(value);
  left.merge(right);
  EXPECT_EQ(left.first, all.first);
  EXPECT_EQ(left.second, all.second);
}

TEST(StatisticsTest, InverseStd) {
  EXPECT_EQ(inverse_std(0.25, 0), 2);
  EXPECT_EQ(inverse_std(3, 1), 0.5);
  EXPECT_EQ(inverse_std(0, 0), 0);
  EXPECT_EQ(inverse_std(-1, 1), 0);
  EXPECT_EQ(inverse_std(kInfinity, 1e-5), 0);
  EXPECT_TRUE(std::isnan(inverse_std(kNaN, 1e-5)));
  EXPECT_TRUE(std::isnan(inverse_std(-2, 1)));
}

// ---- Affine map and gradient ------------------------------------------------------------------

// float arithmetic on values whose mean is 1e6 standard deviations away from zero, and not a float.
TEST(AffineTest, KeepsItsAccuracyAtLargeMeans) {
  constexpr double kUnit = 0x1p-24;
  const double mean = 1e6 / 3;
  const double invstd = 3.0;
  const double weight = 1.7, bias = -0.3;
  const Affine<float> affine = fold_affine<float>(mean, invstd, weight, bias);
  for (int i = -100; i <= 100; ++i) {
    const auto x = static_cast<float>(mean + i * 0.03125);
    const double xhat = (x - mean) * invstd;
    const double expected = weight * xhat + bias;
    // 4 roundings of the product, 2 of the shift, which holds bias and the low part of the mean.
    const double low = std::abs(mean - static_cast<float>(mean)) * invstd * weight;
    const double tolerance =
        kUnit * (4 * (std::abs(weight * xhat) + low) + 2 * (std::abs(bias) + low));
    EXPECT_NEAR(affine(x), expected, tolerance) << i;
  }
}

TEST(AffineTest, MapsTheMeanOfAConstantChannelToBias) {
  for (float constant : {0.1f, 1e30f, -65504.0f}) {
    const Affine<float> affine = fold_affine<float>(constant, 1e5, 3, 0.7);
    EXPECT_EQ(affine(constant), 0.7f);
  }
}

TEST(AffineTest, InfiniteMeanHasNoLowPart) {
  const Affine<float> affine = fold_affine<float>(kInfinity, 1, 2, 3);
  EXPECT_EQ(affine.shift, 3);
  EXPECT_EQ(affine(1), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(fold_affine<float>(kNaN, 1, 2, 3)(1)));
  // Finite in double, infinite in float.
  EXPECT_EQ(fold_affine<float>(1e39, 1, 2, 3).shift, 3);
}

TEST(GradientTest, FollowsTheFormula) {
  const std::vector<double> x = {1, 2, 4, 8, 16}, dy = {0.5, -1, 2, 0.25, -3};
  const double n = 5, mean = 6.2, invstd = 1 / std::sqrt(29.76 + 1e-5), weight = -1.3;
  GradientSums sums;
  for (size_t i = 0; i < x.size(); ++i) sums.add(dy[i], x[i] - mean);
  double grad_weight = 0, grad_bias = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    grad_weight += dy[i] * (x[i] - mean) * invstd;
    grad_bias += dy[i];
  }
  EXPECT_NEAR(sums.grad_weight(invstd), grad_weight, 1e-14);
  EXPECT_NEAR(sums.grad_bias(), grad_bias, 1e-14);

  const auto coefficients = fold_gradient<double>(sums, mean, invstd, weight, 5);
  for (size_t i = 0; i < x.size(); ++i) {
    const double xhat = (x[i] - mean) * invstd;
    const double expected = weight * invstd * (dy[i] - grad_bias / n - xhat * grad_weight / n);
    EXPECT_NEAR(coefficients(dy[i], x[i]), expected, 1e-14) << i;
  }
}

TEST(GradientTest, KeepsItsAccuracyAtLargeMeans) {
  constexpr double kUnit = 0x1p-24;
  const double mean = 1e6 / 3, invstd = 3, weight = 1.7;
  const GradientSums sums{30, 700};
  const int64_t n = 1000;
  const auto coefficients = fold_gradient<float>(sums, mean, invstd, weight, n);
  const double low = std::abs(mean - static_cast<float>(mean)) * invstd;
  for (int i = -100; i <= 100; ++i) {
    const auto x = static_cast<float>(mean + i * 0.03125);
    const auto dy = static_cast<float>(std::sin(i));
    const double xhat = (x - mean) * invstd;
    const double along_one = 30.0 / n, along_xhat = 700 * invstd / n;
    const double expected = weight * invstd * (dy - along_one - xhat * along_xhat);
    const double terms = std::abs(dy) + along_one + (std::abs(xhat) + low) * std::abs(along_xhat);
    EXPECT_NEAR(coefficients(dy, x), expected, 5 * kUnit * weight * invstd * terms) << i;
  }
}

TEST(GradientTest, ConstantChannelGivesNoGradientButTheMeansOfDy) {
  GradientSums sums;
  for (double dy : {1, 2, 6}) sums.add(dy, 0);
  EXPECT_EQ(sums.grad_weight(316.0), 0);
  const auto coefficients = fold_gradient<float>(sums, 0.1, 316, 1, 3);
  EXPECT_NEAR(coefficients(2, 0.1f), -316, 1e-4);
  EXPECT_EQ((fold_gradient<float>(sums, 0.1, 0, 1, 3)(2, 0.1f)), 0);
}

// ---- Vectors over channels --------------------------------------------------------------------

TEST(ChannelVectorTest, StoresAndLoadsEveryTypeWithStride) {
  for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (int64_t stride : {1, 3}) {
      std::vector<double> memory(16, 0);  // aligned for every type
      const MutableChannelVector vector{memory.data(), stride, dtype};
      EXPECT_TRUE(vector.present());
      for (int64_t c = 0; c < 4; ++c) vector.store(c, 1.5 * static_cast<double>(c) - 2);
      const ChannelVector same{memory.data(), stride, dtype};
      for (int64_t c = 0; c < 4; ++c) {
        EXPECT_EQ(vector.load(c), 1.5 * static_cast<double>(c) - 2);
        EXPECT_EQ(same.load(c), vector.load(c));
        EXPECT_EQ(same.load_or(c, 7), vector.load(c));
      }
      // Nothing between the elements was written.
      const auto* bytes = reinterpret_cast<const unsigned char*>(memory.data());
      const auto used = [&](size_t i) {
        return i / size_of(dtype) % static_cast<size_t>(stride) == 0 &&
               i < 4 * static_cast<size_t>(stride) * size_of(dtype);
      };
      for (size_t i = 0; i < memory.size() * sizeof(double); ++i)
        EXPECT_TRUE(used(i) || bytes[i] == 0) << i;
    }
  }
}

TEST(ChannelVectorTest, RoundsToNearestEven) {
  uint16_t memory = 0;
  MutableChannelVector{&memory, 1, DType::kFloat16}.store(0, 1 + 0x1p-11);
  EXPECT_EQ((ChannelVector{&memory, 1, DType::kFloat16}.load(0)), 1);
  MutableChannelVector{&memory, 1, DType::kBFloat16}.store(0, 1 + 3 * 0x1p-8);
  EXPECT_EQ((ChannelVector{&memory, 1, DType::kBFloat16}.load(0)), 1 + 0x1p-6);
}

TEST(ChannelVectorTest, AbsentOnesHaveADefault) {
  EXPECT_FALSE(ChannelVector{}.present());
  EXPECT_FALSE(MutableChannelVector{}.present());
  EXPECT_EQ(ChannelVector{}.load_or(3, 1), 1);
}

// ---- Running statistics -----------------------------------------------------------------------

struct Layer {
  float mean = 10;
  float var = 20;
  int64_t counter = 4;

  RunningStatistics running(double momentum, bool cumulative = false) {
    return {
        {&mean, 1, DType::kFloat32}, {&var, 1, DType::kFloat32}, &counter, momentum, cumulative};
  }
};

TEST(RunningStatisticsTest, WeighTheNewBatchByMomentum) {
  for (double momentum : {0.0, 0.1, 0.5, 1.0, -0.25, 1.5}) {
    Layer layer;
    const RunningStatistics running = layer.running(momentum);
    EXPECT_EQ(running.factor(), momentum);
    running.update(0, {2, 3}, 4);
    EXPECT_FLOAT_EQ(layer.mean, static_cast<float>((1 - momentum) * 10 + momentum * 2));
    EXPECT_FLOAT_EQ(layer.var, static_cast<float>((1 - momentum) * 20 + momentum * 4));
  }
}

TEST(RunningStatisticsTest, TrackTheUnbiasedVariance) {
  float mean = 0, var = 1;
  const RunningStatistics running{
      {&mean, 1, DType::kFloat32}, {&var, 1, DType::kFloat32}, nullptr, 0.1, false};
  running.update(0, statistics_of({1, 2, 3, 4}), 4);
  EXPECT_FLOAT_EQ(mean, 0.25f);
  EXPECT_FLOAT_EQ(var, static_cast<float>(0.9 + 0.1 * (5.0 / 3)));
}

TEST(RunningStatisticsTest, CumulativeAverageCountsThisBatch) {
  Layer layer;
  EXPECT_EQ(layer.running(0, true).factor(), 0.2);
  layer.counter = 0;
  const RunningStatistics running = layer.running(0, true);
  EXPECT_EQ(running.factor(), 1);
  running.update(0, {2, 3}, 4);
  EXPECT_EQ(layer.mean, 2);
  EXPECT_EQ(layer.var, 4);
  EXPECT_EQ(layer.counter, 0) << "the counter is the kernel's business";
}

TEST(RunningStatisticsTest, MayBeAbsent) {
  const RunningStatistics running;
  EXPECT_FALSE(running.present());
  running.update(0, {2, 3}, 4);
}

// ---- Extents ----------------------------------------------------------------------------------

TEST(ExtentTest, Counts) {
  const Extent extent{3, 5, int64_t{1} << 31};
  EXPECT_EQ(extent.count(), 3 * (int64_t{1} << 31));
  EXPECT_EQ(extent.numel(), 15 * (int64_t{1} << 31));
}

TEST(ExtentTest, PlanesOfOneValueAreChannelsLast) {
  EXPECT_EQ((Extent{2, 3, 2}).layout(), Layout::kChannelsFirst);
  EXPECT_EQ((Extent{2, 3, 1}).layout(), Layout::kChannelsLast);
  EXPECT_EQ((Extent{2, 3, 2}).first_value(2), 4);
  EXPECT_EQ((Extent{2, 3, 2}).offset(1, 2, 1), 11);
  EXPECT_EQ((Extent{2, 3, 1}).first_value(2), 2);
}

}  // namespace
}  // namespace torchbn
