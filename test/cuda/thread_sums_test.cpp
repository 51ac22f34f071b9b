#include "cuda/thread/sums.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace torchbn::cuda {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Of one thread that takes `kCount` values at a time, and ends its chunks as the kernels do.
template <int kCount>
ShiftedSums thread_sums(const std::vector<float>& values, float pivot) {
  ThreadMoments<float> thread;
  thread.choose_center<kCount>(kCount, [&](int i) { return values[i]; });
  for (size_t begin = 0; begin < values.size(); begin += kCount) {
    float chunk[kCount];
    for (int i = 0; i < kCount; ++i) chunk[i] = values[begin + i];
    thread.add(chunk);
    if (!thread.in_range(kCount)) {
      thread.drop_chunk(kCount, static_cast<int64_t>(begin));
      for (const float value : chunk) thread.add_in_double(value);
    }
    thread.end_chunk();
  }
  return thread.about(pivot, static_cast<int64_t>(values.size()));
}

// Two passes in long double.
Statistics reference(const std::vector<float>& values) {
  long double mean = 0;
  for (const float value : values) mean += value;
  mean /= static_cast<long double>(values.size());
  long double squares = 0;
  for (const float value : values) squares += (value - mean) * (value - mean);
  return {static_cast<double>(mean), static_cast<double>(squares / values.size())};
}

std::vector<float> normal_values(size_t count, float mean, float std, unsigned seed = 7) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(mean, std);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

template <int kCount>
void expect_moments(const std::vector<float>& values) {
  const int64_t count = static_cast<int64_t>(values.size());
  const Statistics expected = reference(values);
  const Statistics got = finish(thread_sums<kCount>(values, values[0]), values[0], count);
  EXPECT_NEAR(got.variance, expected.variance, 1e-6 * expected.variance);
  EXPECT_NEAR(got.mean, expected.mean, 1e-6 * std::sqrt(expected.variance));
}

// Where a centre that is finer than float is for these values would have all of them rounded in one
// direction: this would be 4e-9, and 8e-9 far from zero.
TEST(ThreadMoments, MeanIsAsExactAsRoundingAtRandom) {
  constexpr unsigned kSeeds = 32;
  for (const float mean : {0.f, 0.3f, 3.f}) {
    double squares = 0;
    for (unsigned seed = 0; seed < kSeeds; ++seed) {
      const std::vector<float> values = normal_values(1 << 13, mean, 1, seed);
      const ShiftedSums sums = thread_sums<16>(values, values[0]);
      squares += std::pow(finish(sums, values[0], 1 << 13).mean - reference(values).mean, 2);
    }
    EXPECT_LE(std::sqrt(squares / kSeeds), 2e-9) << "mean " << mean;
  }
}

TEST(ThreadMoments, VarianceHoldsFarFromZero) {
  for (const float mean : {0.f, 1.f, 1e3f, 1e6f}) {
    const std::vector<float> values = normal_values(1 << 16, mean, 1);
    expect_moments<4>(values);
    expect_moments<16>(values);
    expect_moments<32>(values);
  }
}

// An outlier as the pivot: sum((x - K)^2) is d^2 times the variance.
TEST(ThreadMoments, VarianceHoldsForAnOutlyingPivot) {
  for (const float outlier : {-10.f, 100.f, 3e3f}) {
    std::vector<float> values = normal_values(1 << 16, 5, 1);
    values[0] = outlier;
    expect_moments<8>(values);
    expect_moments<32>(values);
  }
}

// The first values that a thread sees, which it takes for its centre, may be unlike all that
// follow.
TEST(ThreadMoments, VarianceHoldsWhereTheFirstValuesAreOutliers) {
  for (const float background : {0.f, 0.3f, -1e4f})
    for (const float outlier : {1e-3f, 1.3f, 1.7e5f, 3e18f})
      for (const size_t outliers : {1, 3, 4, 7, 40}) {
        std::vector<float> values(1 << 14, background);
        for (size_t i = 0; i < outliers; ++i) values[i] += outlier * (1 + 0.1f * (i % 3));
        SCOPED_TRACE(testing::Message() << outliers << " of " << outlier << " on " << background);
        expect_moments<4>(values);
        expect_moments<16>(values);
        expect_moments<32>(values);
      }
}

// Steps from one level to another: the centre follows.
TEST(ThreadMoments, VarianceHoldsForLevels) {
  for (const float noise : {0.f, 1e-6f, 1e-2f}) {
    std::vector<float> values = normal_values(1 << 14, 0, noise);
    for (size_t i = 0; i < values.size(); ++i) values[i] += static_cast<float>(1 + i / 1024 % 5);
    expect_moments<16>(values);
    expect_moments<32>(values);
  }
}

TEST(ThreadMoments, SquaresOutsideFloatsRangeAreAddedInDouble) {
  for (const float scale : {1e-25f, 1e30f, 2e38f}) {
    std::vector<float> values = normal_values(1 << 10, 0, 1);
    for (float& value : values) value = std::max(-1.5f, std::min(1.5f, value)) * scale;
    expect_moments<16>(values);
  }
}

TEST(ThreadMoments, ConstantValuesAddExactZeros) {
  const ShiftedSums sums = thread_sums<8>(std::vector<float>(64, 3e35f), 3e35f);
  EXPECT_EQ(sums.first, 0);
  EXPECT_EQ(sums.second, 0);
}

TEST(ThreadMoments, InfinityStaysInTheMeanAndSpoilsTheVariance) {
  std::vector<float> values(16, 1);
  values[5] = kInfinity;
  const ShiftedSums sums = thread_sums<8>(values, 1);
  EXPECT_EQ(sums.first, kInfinity);
  EXPECT_TRUE(std::isnan(finish(sums, 1, 16).variance));
  values[6] = std::nanf("");
  EXPECT_TRUE(std::isnan(thread_sums<8>(values, 1).first));
}

TEST(ThreadMoments, DoubleStaysDouble) {
  ThreadMoments<double> thread;
  thread.choose_center<2>(2, [](int i) { return 1e9 + 1 + i; });
  thread.add({1e9 + 1, 1e9 + 2});
  ASSERT_TRUE(thread.in_range(2));
  thread.end_chunk();
  const ShiftedSums sums = thread.about(1e9, 2);
  EXPECT_EQ(sums.first, 3);
  EXPECT_EQ(sums.second, 5);
}

// Their squares leave double's range, and then the sums go to another pivot.
TEST(ThreadMoments, HugeValuesHaveAnInfiniteVariance) {
  ThreadMoments<double> thread;
  thread.choose_center<2>(2, [](int i) { return i == 0 ? -1e200 : 1e200; });
  thread.add({-1e200, 1e200});
  thread.end_chunk();
  for (const double pivot : {-1e200, 0., 1e200})
    EXPECT_EQ(finish(thread.about(pivot, 2), pivot, 2).variance, HUGE_VAL) << "pivot " << pivot;
}

TEST(ThreadMoments, NoValuesAddNothing) {
  const ShiftedSums sums = ThreadMoments<float>{}.about(kInfinity, 0);
  EXPECT_EQ(sums.first, 0);
  EXPECT_EQ(sums.second, 0);
}

TEST(ThreadGradients, MatchesSumsInDouble) {
  const std::vector<float> dy = normal_values(1 << 14, 0, 1);
  const std::vector<float> x = normal_values(1 << 14, 1e5f, 3);
  const double mean = 1e5 + 0.003;
  const float high = static_cast<float>(mean);
  ThreadGradients<float> thread;
  thread.center = high;
  long double dy_sum = 0, centered = 0, bound = 0;
  for (size_t begin = 0; begin < dy.size(); begin += 8) {
    float grads[8], values[8];
    for (int i = 0; i < 8; ++i) {
      grads[i] = dy[begin + i];
      values[i] = x[begin + i];
      dy_sum += grads[i];
      centered += grads[i] * (values[i] - static_cast<long double>(mean));
      bound += std::abs(grads[i] * (values[i] - high));
    }
    thread.add(grads, values);
    ASSERT_TRUE(thread.in_range(8));
    thread.end_chunk();
  }
  const GradientSums sums = recenter(thread.sums, mean, high);
  EXPECT_NEAR(sums.dy, static_cast<double>(dy_sum), 8 * 0x1p-24 * dy.size());
  EXPECT_NEAR(sums.dy_centered, static_cast<double>(centered),
              static_cast<double>(8 * 0x1p-24 * bound));
}

TEST(ThreadGradients, SumsOutsideFloatsRangeAreNoticed) {
  ThreadGradients<float> thread;
  thread.center = 1;
  thread.add({3e38f, 3e38f}, {2.f, 3.f});
  EXPECT_FALSE(thread.in_range(2));
  thread.drop_chunk(2, 0);
  thread.add_in_double(3e38f, 2);
  thread.add_in_double(3e38f, 3);
  EXPECT_EQ(thread.sums.dy, 2 * static_cast<double>(3e38f));
  EXPECT_EQ(thread.sums.dy_centered, 3 * static_cast<double>(3e38f));
}

TEST(ThreadGradients, ProductsThatUnderflowAreNoticed) {
  for (const float grad : {1e-25f, 1e-35f}) {
    ThreadGradients<float> thread;
    thread.add({grad, 2 * grad}, {3e-15f, 1e-15f});
    EXPECT_FALSE(thread.in_range(2));
  }
  ThreadGradients<float> thread;
  thread.add({0, 0}, {2, 3});
  EXPECT_TRUE(thread.in_range(2));  // there are planes of such gradients
}

TEST(ThreadGradients, RecenterLeavesSumsAboutAnInfiniteMean) {
  const GradientSums sums = recenter({2, 3}, kInfinity, kInfinity);
  EXPECT_EQ(sums.dy_centered, 3);
}

}  // namespace
}  // namespace torchbn::cuda
