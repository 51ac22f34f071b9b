// The examples of the batch-normalization tutorial, in float32 against statistics that torch
// computes in float64.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torchbn/batch_norm.h>

#include "support/cases.h"
#include "support/compare.h"

namespace torchbn::test {
namespace {

constexpr double kEps = 1e-5;
// Values of at most 6 standard deviations: 4 float32 roundings of them, and as many for the sums of
// floats that a GPU adds first.
constexpr double kTolerance = 8 * 6 * 0x1p-24;

class WorkedExampleTest : public testing::TestWithParam<at::Device> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam()); }
  at::TensorOptions floats() const { return at::dtype(at::kFloat).device(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, WorkedExampleTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

// Every value of one channel, normalised by hand.
at::Tensor normalised(const at::Tensor& channel) {
  const Threads threads(1);  // on a busy machine, more of them would wait for each other
  const at::Tensor x = channel.to(at::kCPU, at::kDouble);
  return (x - x.mean()) / (x.var(/*unbiased=*/false) + kEps).sqrt();
}

TEST_P(WorkedExampleTest, FeaturesWithoutAffine) {
  const at::Tensor data = (normal({20, 100}, 1) * 5 + 10).to(floats());
  const at::Tensor output =
      batch_norm(data, {}, {}, {}, {}, /*training=*/true, /*momentum=*/0.1, kEps);
  for (int64_t column = 0; column < 100; ++column) {
    EXPECT_TRUE(is_near(output.select(1, column), normalised(data.select(1, column)), kTolerance));
  }
  // The variance that normalises is the biased one: with the other, values would be 2.5 % smaller.
  EXPECT_TRUE(is_near(output.to(at::kDouble).var(0, /*unbiased=*/false), at::ones({100}), 1e-5));
  EXPECT_TRUE(is_near(output.to(at::kDouble).mean(0), at::zeros({100}), 1e-6));
}

TEST_P(WorkedExampleTest, SequencesWithWeightOneAndBiasZero) {
  const at::Tensor data = (normal({150, 20, 100}, 2) * 2 + 4).to(floats());
  const at::Tensor output =
      batch_norm(data, at::ones({20}, floats()), at::zeros({20}, floats()),
                 at::zeros({20}, floats()), at::ones({20}, floats()), /*training=*/true, 0.1, kEps);
  for (int64_t channel = 0; channel < 20; ++channel) {
    EXPECT_TRUE(
        is_near(output.select(1, channel), normalised(data.select(1, channel)), kTolerance));
  }
}

TEST_P(WorkedExampleTest, ImagesWithoutAffine) {
  const at::Tensor data = (normal({5, 25, 100, 100}, 3) * 2 + 4).to(floats());
  for (at::MemoryFormat format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const at::Tensor output = batch_norm(data.contiguous(format), {}, {}, {}, {}, true, 0.1, kEps);
    for (int64_t channel = 0; channel < 25; ++channel) {
      EXPECT_TRUE(
          is_near(output.select(1, channel), normalised(data.select(1, channel)), kTolerance));
    }
  }
}

TEST_P(WorkedExampleTest, TracksTheUnbiasedVarianceButNormalisesWithTheBiasedOne) {
  const at::Tensor data = at::tensor({1, 2, 3, 4}, floats()).view({4, 1});
  const at::Tensor mean = at::zeros({1}, floats());
  const at::Tensor var = at::ones({1}, floats());
  const at::Tensor output = batch_norm(data, {}, {}, mean, var, /*training=*/true, 0.1, /*eps=*/0);
  EXPECT_FLOAT_EQ(mean.item<float>(), 0.25f);
  EXPECT_FLOAT_EQ(var.item<float>(), static_cast<float>(0.9 + 0.1 * 5 / 3));
  EXPECT_FLOAT_EQ(output[0][0].item<float>(), static_cast<float>(-1.5 / std::sqrt(1.25)));
}

}  // namespace
}  // namespace torchbn::test
