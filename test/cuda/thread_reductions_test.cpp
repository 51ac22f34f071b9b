#include "cuda/thread/reductions.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/affine.h"
#include "core/dtype.h"
#include "core/statistics.h"

namespace torchbn::cuda {
namespace {

// The vectors of one thread, one after the other.
struct Straight {
  int64_t next;
  int left;

  void step(int width) { next += width; }
};

// Two passes in long double over the values of one lane.
template <typename T>
double variance_of(const std::vector<T>& values, size_t begin, size_t step) {
  long double mean = 0;
  long double squares = 0;
  const auto count = static_cast<long double>(values.size() / step);
  for (size_t i = begin; i < values.size(); i += step) mean += to_compute(values[i]);
  mean /= count;
  for (size_t i = begin; i < values.size(); i += step) {
    const long double centered = to_compute(values[i]) - mean;
    squares += centered * centered;
  }
  return static_cast<double>(squares / count);
}

// The largest relative error of a lane's variance, where a thread has kVectors vectors under way.
template <typename T, int kWidth, int kLanes, int kVectors>
double error_of(const std::vector<T>& values) {
  using Reduction = MomentReduction<T, kWidth>;
  const Reduction reduction{values.data()};
  const int64_t count = static_cast<int64_t>(values.size()) / kLanes;
  typename Reduction::Lane lanes[kLanes];
  Straight walk{0, static_cast<int>(values.size() / kWidth)};
  InPlace source;
  add_vectors<kVectors>(reduction, source, kWidth, walk, lanes);
  double error = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const double expected = variance_of(values, static_cast<size_t>(lane), kLanes);
    const double pivot = to_compute(values[static_cast<size_t>(lane)]);
    const double got = finish(reduction.sums_of(lanes[lane], count, lane), pivot, count).variance;
    if (expected > 0) error = std::max(error, std::abs(got - expected) / expected);
  }
  return error;
}

// What a thread may be given: the first `step` vectors at one level, the rest at another, and noise
// on both.
struct Step {
  float levels[2];
  float noise;

  template <typename T>
  std::vector<T> values(int vectors, int step, int width, unsigned seed) const {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0, 1);
    std::vector<T> values(static_cast<size_t>(vectors * width));
    for (size_t i = 0; i < values.size(); ++i) {
      const int vector = static_cast<int>(i) / width;
      values[i] = from_compute<T>(levels[vector < step ? 0 : 1] + noise * normal(engine));
    }
    return values;
  }
};

const Step kSteps[] = {{{1, 0}, 1e-3f}, {{0, 1}, 1e-2f},  {{1, 0}, 0.1f},
                       {{0, 1}, 0.3f},  {{0, 0}, 1},      {{100, 101}, 0.2f},
                       {{1, 3}, 0.f},   {{1, 1.1f}, 0.f}, {{0.1f, 0.7f}, 0.05f}};

template <typename T, int kWidth, int kLanes, int kVectors>
void expect_exact_variance() {
  double worst = 0;
  std::string where;
  for (const Step& step : kSteps)
    for (int vectors = 2; vectors <= 100; vectors += 1 + vectors / 12)
      for (int at = 0; at <= vectors && at <= 40; at += 1 + at / 6)
        for (unsigned seed = 0; seed < 4; ++seed) {
          const auto values = step.values<T>(vectors, at, kWidth, seed);
          const double error = error_of<T, kWidth, kLanes, kVectors>(values);
          if (error <= worst) continue;
          worst = error;
          where = std::to_string(vectors) + " vectors, from " + std::to_string(step.levels[0]) +
                  " to " + std::to_string(step.levels[1]) + " at " + std::to_string(at) +
                  ", noise " + std::to_string(step.noise);
        }
  // Of this one thread; no channel has fewer than four, whose errors are different ones.
  EXPECT_LE(worst, 1.5e-6) << where << "; " << kWidth << " values, " << kLanes << " lanes, "
                           << kVectors << " vectors under way";
}

template <typename T>
class ThreadReductions : public testing::Test {};
using Types = testing::Types<float, BFloat16, Float16>;
TYPED_TEST_SUITE(ThreadReductions, Types, );

TYPED_TEST(ThreadReductions, VarianceHoldsAlongAChannel) {
  expect_exact_variance<TypeParam, 1, 1, 4>();
  expect_exact_variance<TypeParam, 1, 1, 8>();
  expect_exact_variance<TypeParam, 4, 1, 2>();
  expect_exact_variance<TypeParam, 4, 1, 4>();
  expect_exact_variance<TypeParam, 8, 1, 4>();
}

TYPED_TEST(ThreadReductions, VarianceHoldsAcrossChannels) {
  expect_exact_variance<TypeParam, 2, 2, 4>();
  expect_exact_variance<TypeParam, 4, 4, 4>();
  expect_exact_variance<TypeParam, 4, 4, 8>();
}

}  // namespace
}  // namespace torchbn::cuda
