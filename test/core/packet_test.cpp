#include "core/packet.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace torchbn {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <int kCount>
ShiftedSums packet_sums(const std::vector<float>& values, float pivot) {
  ShiftedSums sums;
  for (size_t begin = 0; begin < values.size(); begin += kCount) {
    float packet[kCount];
    for (int i = 0; i < kCount; ++i) packet[i] = values[begin + i];
    add_packet(sums, packet, pivot);
  }
  return sums;
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

std::vector<float> normal_values(size_t count, float mean, float std) {
  std::mt19937 engine(7);
  std::normal_distribution<float> normal(mean, std);
  std::vector<float> values(count);
  for (float& value : values) value = normal(engine);
  return values;
}

template <int kCount>
void expect_moments(const std::vector<float>& values) {
  const int64_t count = static_cast<int64_t>(values.size());
  const Statistics expected = reference(values);
  const Statistics got = finish(packet_sums<kCount>(values, values[0]), values[0], count);
  EXPECT_NEAR(got.variance, expected.variance, 1e-6 * expected.variance);
  EXPECT_NEAR(got.mean, expected.mean, 1e-6 * std::sqrt(expected.variance));
}

TEST(ShiftedSumsPacket, VarianceHoldsFarFromZero) {
  for (const float mean : {0.f, 1.f, 1e3f, 1e6f}) {
    const std::vector<float> values = normal_values(1 << 16, mean, 1);
    expect_moments<1>(values);
    expect_moments<4>(values);
    expect_moments<16>(values);
    expect_moments<32>(values);
  }
}

// An outlier as the pivot: sum((x - K)^2) is d^2 times the variance.
TEST(ShiftedSumsPacket, VarianceHoldsForAnOutlyingPivot) {
  for (const float outlier : {-10.f, 100.f, 3e3f}) {
    std::vector<float> values = normal_values(1 << 16, 5, 1);
    values[0] = outlier;
    expect_moments<8>(values);
    expect_moments<32>(values);
  }
}

TEST(ShiftedSumsPacket, SquaresOutsideFloatsRangeAreAddedInDouble) {
  for (const float scale : {1e-25f, 1e30f, 2e38f}) {
    std::vector<float> values = normal_values(1 << 10, 0, 1);
    for (float& value : values) value = std::max(-1.5f, std::min(1.5f, value)) * scale;
    expect_moments<16>(values);
  }
}

TEST(ShiftedSumsPacket, ConstantValuesAddExactZeros) {
  const ShiftedSums sums = packet_sums<8>(std::vector<float>(64, 3e35f), 3e35f);
  EXPECT_EQ(sums.first, 0);
  EXPECT_EQ(sums.second, 0);
}

TEST(ShiftedSumsPacket, InfinityStaysInTheMeanAndSpoilsTheVariance) {
  std::vector<float> values(16, 1);
  values[5] = kInfinity;
  const ShiftedSums sums = packet_sums<8>(values, 1);
  EXPECT_EQ(sums.first, kInfinity);
  EXPECT_TRUE(std::isnan(finish(sums, 1, 16).variance));
  values[6] = std::nanf("");
  EXPECT_TRUE(std::isnan(packet_sums<8>(values, 1).first));
}

TEST(ShiftedSumsPacket, DoubleIsAddedValueByValue) {
  ShiftedSums sums;
  add_packet(sums, {1e9 + 1, 1e9 + 2}, 1e9);
  EXPECT_EQ(sums.first, 3);
  EXPECT_EQ(sums.second, 5);
}

TEST(GradientSumsPacket, MatchesSumsInDouble) {
  const std::vector<float> dy = normal_values(1 << 14, 0, 1);
  const std::vector<float> x = normal_values(1 << 14, 1e5f, 3);
  const double mean = 1e5 + 0.003;
  const float high = static_cast<float>(mean);
  GradientSums sums;
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
    add_packet(sums, grads, values, high);
  }
  sums = recenter(sums, mean, high);
  EXPECT_NEAR(sums.dy, static_cast<double>(dy_sum), 8 * 0x1p-24 * dy.size());
  EXPECT_NEAR(sums.dy_centered, static_cast<double>(centered),
              static_cast<double>(8 * 0x1p-24 * bound));
}

TEST(GradientSumsPacket, SumsOutsideFloatsRangeAreAddedInDouble) {
  GradientSums sums;
  add_packet(sums, {3e38f, 3e38f}, {2.f, 3.f}, 1.f);
  EXPECT_EQ(sums.dy, 2 * static_cast<double>(3e38f));
  EXPECT_EQ(sums.dy_centered, 3 * static_cast<double>(3e38f));
}

TEST(GradientSumsPacket, RecenterLeavesSumsAboutAnInfiniteMean) {
  const GradientSums sums = recenter({2, 3}, kInfinity, kInfinity);
  EXPECT_EQ(sums.dy_centered, 3);
}

}  // namespace
}  // namespace torchbn
