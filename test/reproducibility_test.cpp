// The same bits for every number of threads and in every run.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "operators.h"
#include "support/cases.h"
#include "support/compare.h"

namespace torchbn::test {
namespace {

class ReproducibilityTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(, ReproducibilityTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

struct BitCase {
  std::vector<int64_t> shape;
  Memory memory;
};

// Everything that a training step and an evaluation write.
std::vector<at::Tensor> everything(const BitCase& c, at::ScalarType dtype, at::Device device) {
  const int64_t channels = c.shape[1];
  const auto options = at::dtype(dtype).device(device);
  const at::Tensor input = laid_out((many_normal(c.shape) + 3).to(options), c.memory);
  const at::Tensor grad_output = many_normal(c.shape).cos().to(options);
  const at::Tensor weight = (normal({channels}, 2) + 1).to(options);
  const at::Tensor bias = normal({channels}, 3).to(options);
  const at::Tensor running_mean = at::zeros({channels}, options);
  const at::Tensor running_var = at::ones({channels}, options);
  std::vector<at::Tensor> result = {running_mean, running_var};
  for (bool training : {true, false}) {
    const auto [output, mean, invstd] =
        training
            ? ops::batch_norm_train(input, weight, bias, running_mean, running_var, {}, 0.1, 1e-5)
            : ops::batch_norm_inference(input, weight, bias, running_mean, running_var, 1e-5);
    const auto [grad_input, grad_weight, grad_bias] = ops::batch_norm_backward(
        grad_output, input, weight, mean, invstd, training, true, true, true);
    for (const at::Tensor& t : {output, mean, invstd, grad_input, grad_weight, grad_bias})
      result.push_back(t);
  }
  return result;
}

const std::vector<BitCase>& bit_cases() {
  static const std::vector<BitCase> all = {
      {{3, 2, 40961}, Memory::kContiguous},     {{1, 1, 262147}, Memory::kContiguous},
      {{64, 96, 7, 7}, Memory::kContiguous},    {{5001, 17, 3}, Memory::kContiguous},
      {{8, 19, 31, 33}, Memory::kChannelsLast}, {{64, 1024, 2, 2}, Memory::kChannelsLast},
      {{100003, 3}, Memory::kContiguous},       {{5, 20011}, Memory::kContiguous},
      {{17, 9, 1003}, Memory::kSliced}};
  return all;
}

TEST_P(ReproducibilityTest, TheSameBitsForEveryNumberOfThreads) {
  if (device().is_cuda()) GTEST_SKIP() << "CPU threads have no part in it";
  for (const BitCase& c : bit_cases()) {
    for (at::ScalarType dtype : all_dtypes()) {
      std::vector<at::Tensor> expected;
      for (int count = 1; count <= 8; ++count) {
        SCOPED_TRACE(testing::Message() << at::IntArrayRef(c.shape) << name_of(c.memory)
                                        << name_of(dtype) << " " << count << " threads");
        const Threads threads(count);
        const std::vector<at::Tensor> actual = everything(c, dtype, device());
        if (expected.empty()) expected = actual;
        for (size_t i = 0; i < actual.size(); ++i)
          EXPECT_TRUE(is_identical(actual[i], expected[i])) << "result " << i;
      }
    }
  }
}

TEST_P(ReproducibilityTest, TheSameBitsInEveryRun) {
  const Threads threads(2);
  for (const BitCase& c : bit_cases()) {
    const std::vector<at::Tensor> expected = everything(c, at::kFloat, device());
    for (int run = 0; run < 3; ++run) {
      const std::vector<at::Tensor> actual = everything(c, at::kFloat, device());
      for (size_t i = 0; i < actual.size(); ++i)
        EXPECT_TRUE(is_identical(actual[i], expected[i])) << at::IntArrayRef(c.shape) << " " << i;
    }
  }
}

}  // namespace
}  // namespace torchbn::test
