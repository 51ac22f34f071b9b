// Constant channels, infinities, NaN, overflow.

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/reference.h"

namespace torchbn::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class SpecialValuesTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(, SpecialValuesTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

// ---- Constants --------------------------------------------------------------------------------

TEST_P(SpecialValuesTest, ConstantChannelsBecomeBias) {
  for (at::ScalarType dtype : all_dtypes()) {
    for (double eps : {1e-5, 0.}) {
      for (double constant : {0., 0.1, -1e4, 6e4, 1e-7}) {
        for (const std::vector<int64_t>& shape :
             {std::vector<int64_t>{7, 3}, {3, 3, 1037}, {2, 3, 33, 17}}) {
          for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast, Memory::kExpanded}) {
            SCOPED_TRACE(testing::Message() << name_of(dtype) << " eps " << eps << " " << constant
                                            << at::IntArrayRef(shape) << name_of(memory));
            Arguments a;
            a.eps = eps;
            a.input = laid_out(at::full(shape, constant, at::dtype(dtype).device(device())), memory)
                          .requires_grad_();
            a.weight = (normal({3}, 2) * 3).to(device(), dtype).requires_grad_();
            a.bias = (normal({3}, 3) * 3).to(device(), dtype);
            const at::Tensor output = call(a);
            const at::Tensor bias = per_channel(a.bias, output).expand(shape).contiguous();
            EXPECT_TRUE(is_identical(output, bias));
            output.sum().backward();
            EXPECT_TRUE(is_near(a.weight.grad(), at::zeros({3}), 0));
            EXPECT_TRUE(a.input.grad().isfinite().all().item<bool>());
          }
        }
      }
    }
  }
}

TEST_P(SpecialValuesTest, NoVarianceAtAllGivesBiasInEvaluation) {
  for (at::ScalarType dtype : all_dtypes()) {
    for (const auto& [var, eps] : {std::pair(0., 0.), std::pair(-1., 1.)}) {
      Arguments a;
      a.training = false;
      a.eps = eps;
      a.input = normal({4, 3, 5}, 1).to(device(), dtype);
      a.bias = normal({3}, 3).to(device(), dtype);
      a.running_mean = at::ones({3}, a.input.options());
      a.running_var = at::full({3}, var, a.input.options());
      const at::Tensor output = call(a);
      const at::Tensor bias = per_channel(a.bias, output).expand({4, 3, 5}).contiguous();
      EXPECT_TRUE(is_near(output, exact(bias), 0)) << name_of(dtype);
    }
  }
}

// ---- Infinities and NaN -----------------------------------------------------------------------

// In the same places, and of the same sign, as in ATen's CPU kernels. Its CUDA kernels update means
// one value at a time and make NaN of the mean of a channel with one infinity.
void expect_as_aten(const Arguments& a) {
  const auto on_cpu = [](const at::Tensor& t) { return t.cpu().clone().contiguous(); };
  const at::Tensor mean = on_cpu(a.running_mean), var = on_cpu(a.running_var);
  const at::Tensor expected =
      at::batch_norm(on_cpu(a.input), on_cpu(a.weight), on_cpu(a.bias), mean, var, a.training,
                     *a.momentum, a.eps, /*cudnn_enabled=*/false);
  const at::Tensor actual = call(a);
  const auto special = [](const at::Tensor& t) {
    return at::where(exact(t).isfinite(), at::zeros({}, at::kDouble), exact(t));
  };
  EXPECT_TRUE(is_near(special(actual), special(expected), 0));
  EXPECT_TRUE(is_near(special(a.running_mean), special(mean), 0));
  EXPECT_TRUE(is_near(special(a.running_var), special(var), 0));
}

TEST_P(SpecialValuesTest, InfinitiesAndNaNAsInATen) {
  for (at::ScalarType dtype : all_dtypes()) {
    for (bool training : {true, false}) {
      for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast, Memory::kSliced}) {
        for (double value : {kNaN, kInfinity, -kInfinity}) {
          for (int64_t place : {0, 1, 50}) {
            SCOPED_TRACE(testing::Message() << name_of(dtype) << name_of(memory) << " " << value
                                            << " at " << place << (training ? " training" : ""));
            Arguments a;
            a.training = training;
            a.input = normal({2, 3, 51}, 1).to(device(), dtype);
            a.input.select(0, 0).select(0, 1).narrow(0, place, 1).fill_(value);
            a.input = laid_out(a.input, memory);
            a.weight = at::ones({3}, a.input.options());
            a.bias = at::zeros({3}, a.input.options());
            a.running_mean = at::zeros({3}, a.input.options());
            a.running_var = at::ones({3}, a.input.options());
            expect_as_aten(a);
            EXPECT_TRUE(call(a).select(1, 0).isfinite().all().item<bool>());
            EXPECT_TRUE(call(a).select(1, 2).isfinite().all().item<bool>());
          }
        }
      }
    }
  }
}

TEST_P(SpecialValuesTest, InfinitiesOfBothSignsAsInATen) {
  Arguments a;
  a.input = normal({2, 3, 51}, 1).to(device(), at::kFloat);
  a.input.select(1, 1).select(1, 3).copy_(at::tensor({kInfinity, -kInfinity}));
  a.weight = at::ones({3}, a.input.options());
  a.bias = at::zeros({3}, a.input.options());
  a.running_mean = at::zeros({3}, a.input.options());
  a.running_var = at::ones({3}, a.input.options());
  expect_as_aten(a);
}

TEST_P(SpecialValuesTest, SpecialStatisticsAndParametersAsInATen) {
  for (at::Tensor Arguments::*which :
       {&Arguments::weight, &Arguments::bias, &Arguments::running_mean, &Arguments::running_var}) {
    for (double value : {kNaN, kInfinity, -kInfinity}) {
      Arguments a;
      a.training = false;
      a.input = normal({2, 3, 51}, 1).to(device(), at::kFloat);
      a.weight = at::ones({3}, a.input.options());
      a.bias = at::zeros({3}, a.input.options());
      a.running_mean = at::zeros({3}, a.input.options());
      a.running_var = at::ones({3}, a.input.options());
      (a.*which).select(0, 1).fill_(value);
      SCOPED_TRACE(testing::Message() << a.weight << a.bias << a.running_mean << a.running_var);
      expect_as_aten(a);
    }
  }
}

// A NaN may carry bits that rounding to a half type must not let run into its sign.
TEST_P(SpecialValuesTest, NaNStaysNaNWhateverItsPayload) {
  const at::Tensor payloads =
      at::tensor({0x7fffffff, 0x7f8fffff, -1, -0x7fffff}, at::kInt).view(at::kFloat);
  for (at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (at::Tensor Arguments::*which : {&Arguments::weight, &Arguments::bias,
                                         &Arguments::running_mean, &Arguments::running_var}) {
      for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast}) {
        for (bool training : {true, false}) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << name_of(memory) << training);
          Arguments a;
          a.training = training;
          a.input = laid_out(normal({3, 5, 7, 9}, 1).to(device(), dtype), memory);
          const auto parameters = at::dtype(at::kFloat).device(device());
          a.weight = at::ones({5}, parameters);
          a.bias = at::zeros({5}, parameters);
          a.running_mean = at::zeros({5}, parameters);
          a.running_var = at::ones({5}, parameters);
          (a.*which).narrow(0, 0, 4).copy_(payloads);
          const bool read = !training || which == &Arguments::weight || which == &Arguments::bias;
          const at::Tensor wrong = at::arange(5, parameters).lt(read ? 4 : 0);

          const at::Tensor x = a.input.requires_grad_();
          const at::Tensor output = call(a);
          EXPECT_TRUE(output.isnan().eq(wrong.view({1, 5, 1, 1})).all().item<bool>());
          if (which != &Arguments::weight && which != &Arguments::running_var) continue;
          const at::Tensor gradient =
              torch::autograd::grad({output}, {x}, {at::ones_like(output)}).front();
          EXPECT_TRUE(gradient.isnan().eq(wrong.view({1, 5, 1, 1})).all().item<bool>());
        }
      }
    }
  }
}

// Halves that leave their range become infinite, as rounding has it.
TEST_P(SpecialValuesTest, OverflowOfAHalfOutput) {
  Arguments a;
  a.input = at::tensor({-1., 1., -1., 1.}).view({4, 1}).to(device(), at::kHalf);
  a.weight = at::full({1}, 65530., at::dtype(at::kFloat).device(device()));
  const at::Tensor expected = at::tensor({-kInfinity, kInfinity, -kInfinity, kInfinity});
  a.eps = 0;
  EXPECT_TRUE(is_near(call(a).view(-1), expected, 0));
}

}  // namespace
}  // namespace torchbn::test
