// Accuracy where it is hard: many values, large means, constants, infinities. And bits: the same
// for every number of threads and in every run.

#include <limits>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "operators.h"
#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/reference.h"

namespace torchbn::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What is promised of the variance, whatever the layout, the count and the mean.
constexpr double kVarianceTolerance = 1e-6;

class NumericsTest : public testing::TestWithParam<at::Device> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam()); }
  at::Device device() const { return GetParam(); }

  // Most tensors here are small, and on a busy machine threads would wait for each other.
  Threads threads_{1};
};
INSTANTIATE_TEST_SUITE_P(, NumericsTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

// Normal values from a repeated block: random numbers are slow to make, and few suffice.
at::Tensor many_normal(at::IntArrayRef shape) {
  const int64_t count = c10::multiply_integers(shape);
  const at::Tensor block = normal({std::min<int64_t>(count, 99991)}, 1);  // a prime
  const int64_t copies = (count + block.numel() - 1) / block.numel();
  return block.repeat({copies}).slice(0, 0, count).view(shape);
}

// Forward and backward, in training, against the reference.
void expect_accurate_training(const Arguments& a) {
  const Forward expected = train(a.input, a.weight, a.bias, a.eps);
  const Tolerances tolerances(a.input, a.weight, a.bias, expected, true);
  const auto [output, mean, invstd] = ops::batch_norm_train(
      a.input.detach(), given(a.weight), given(a.bias), {}, {}, {}, a.momentum, a.eps);
  const at::Tensor var = invstd.cpu().pow(-2) - a.eps;
  EXPECT_TRUE(is_near(mean, expected.mean, tolerances.mean));
  EXPECT_TRUE(is_near(var, expected.var, kVarianceTolerance * expected.var));
  EXPECT_TRUE(is_near(output, expected.output, tolerances.output));

  const at::Tensor grad_output = (many_normal(a.input.sizes()).cos() + 0.25).to(output.options());
  const Gradients gradients = backward(grad_output, a.input, a.weight, expected, true);
  const auto [grad_input, grad_weight, grad_bias] =
      ops::batch_norm_backward(grad_output, a.input.detach(), given(a.weight), mean, invstd, true,
                               true, a.weight.defined(), true);
  EXPECT_TRUE(is_near(grad_input, gradients.input, tolerances.grad_input(grad_output, gradients)));
  const at::ScalarType dtype = grad_bias.scalar_type();
  EXPECT_TRUE(
      is_near(grad_bias, gradients.bias, tolerances.grad_bias(grad_output, gradients, dtype)));
  if (a.weight.defined()) {
    EXPECT_TRUE(is_near(grad_weight, gradients.weight,
                        tolerances.grad_weight(grad_output, gradients, dtype)));
  }
}

// Every channel holds the same values in some order, so that the reference, which is slow at this
// size, is computed once; elements are compared in a sample.
TEST_P(NumericsTest, FourMillionValuesPerChannelInEveryLayout) {
  const Threads threads(2);
  constexpr int64_t kCount = 1 << 22;
  const at::Tensor x = (many_normal({kCount}) * 0.1 + 1e4).to(at::kFloat);
  const at::Tensor dy = (many_normal({kCount}).cos() + 0.25).to(at::kFloat);
  const at::Tensor weight = at::full({2}, 1.5);
  const Forward one = train(x.view({kCount, 1}), {}, {}, /*eps=*/0);
  const Gradients one_gradient =
      backward(dy.view({kCount, 1}), x.view({kCount, 1}), {}, one, /*training=*/true);

  struct Shape {
    const char* name;
    std::vector<int64_t> sizes;
    Memory memory;
  };
  const Shape shapes[] = {{"one long run", {1, 2, kCount}, Memory::kContiguous},
                          {"images", {16, 2, 512, 512}, Memory::kContiguous},
                          {"channels-last images", {16, 2, 512, 512}, Memory::kChannelsLast},
                          {"many short runs", {1 << 19, 2, 8}, Memory::kContiguous},
                          {"permuted sequences", {1 << 12, 2, 1 << 10}, Memory::kChannelsLast},
                          {"features", {kCount, 2}, Memory::kContiguous},
                          {"a slice", {1 << 11, 2, 1 << 11}, Memory::kSliced}};
  for (const auto& [name, sizes, memory] : shapes) {
    SCOPED_TRACE(name);
    const auto arranged = [&, &sizes = sizes, memory = memory](const at::Tensor& values) {
      std::vector<int64_t> channels_first = sizes;
      std::swap(channels_first[0], channels_first[1]);
      const at::Tensor both = at::stack({values, values.flip(0)}).view(channels_first);
      return laid_out(both.transpose(0, 1).to(device()), memory);
    };
    // [n, 2], in the order in which the values were given
    const auto sample = [](const at::Tensor& arranged_values) {
      return arranged_values.transpose(0, 1).reshape({2, -1}).slice(1, 0, std::nullopt, 61).t();
    };
    const at::Tensor input = arranged(x);
    const at::Tensor grad_output = arranged(dy);
    const auto [output, mean, invstd] =
        ops::batch_norm_train(input, weight.to(device()), {}, {}, {}, {}, 0.1, /*eps=*/0);
    const auto [grad_input, grad_weight, grad_bias] = ops::batch_norm_backward(
        grad_output, input, weight.to(device()), mean, invstd, true, true, true, true);

    const at::Tensor x_sample = sample(input);
    const at::Tensor dy_sample = sample(grad_output);
    const at::Tensor xhat = (exact(x_sample) - one.mean) * one.invstd;
    const Forward expected = {1.5 * xhat, one.mean.expand({2}), one.var.expand({2}),
                              one.invstd.expand({2})};
    const at::Tensor through =
        exact(dy_sample) - one_gradient.bias / kCount - xhat * one_gradient.weight / kCount;
    const Gradients gradients = {1.5 * one.invstd * through, one_gradient.weight.expand({2}),
                                 one_gradient.bias.expand({2})};
    const Tolerances tolerances(x_sample, weight, {}, expected, true, kCount);
    EXPECT_TRUE(is_near(mean, expected.mean, tolerances.mean));
    EXPECT_TRUE(is_near(invstd.pow(-2), expected.var, kVarianceTolerance * expected.var));
    EXPECT_TRUE(is_near(sample(output), expected.output, tolerances.output));
    EXPECT_TRUE(
        is_near(sample(grad_input), gradients.input, tolerances.grad_input(dy_sample, gradients)));
    EXPECT_TRUE(is_near(grad_weight, gradients.weight,
                        tolerances.grad_weight(dy_sample, gradients, at::kFloat)));
    EXPECT_TRUE(
        is_near(grad_bias, gradients.bias, tolerances.grad_bias(dy_sample, gradients, at::kFloat)));
  }
}

TEST_P(NumericsTest, MeansUpToAMillionStandardDeviations) {
  for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast, Memory::kSliced}) {
    for (at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      for (double ratio : {1., 1e1, 1e2, 1e3, 1e4, 1e5, 1e6}) {
        for (double std : {1e-3, 1., 1e3}) {
          SCOPED_TRACE(testing::Message()
                       << name_of(memory) << name_of(dtype) << " " << ratio << " * " << std);
          Arguments a;
          a.eps = 0;
          const at::Tensor values = (many_normal({8, 5, 301}) - ratio) * std;
          a.input = laid_out(values.to(device(), dtype), memory);
          a.weight = (normal({5}, 2) + 1).to(a.input.options());
          a.bias = normal({5}, 3).to(a.input.options());
          expect_accurate_training(a);
        }
      }
    }
  }
}

// The first value of a channel may be its only outlier, at the distance that n values allow.
TEST_P(NumericsTest, OutlierInFront) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{1, 2, 1 << 20}, std::vector<int64_t>{1 << 20, 2}}) {
    for (double outlier : {1e2, 1e4, 1e7}) {
      SCOPED_TRACE(testing::Message() << at::IntArrayRef(shape) << " " << outlier);
      Arguments a;
      a.eps = 0;
      a.input = many_normal(shape).to(device(), at::kFloat);
      a.input.select(0, 0).narrow(-1, 0, shape.size() == 2 ? 2 : 1).fill_(outlier);
      const Forward expected = train(a.input, a.weight, a.bias, a.eps);
      const auto invstd =
          std::get<2>(ops::batch_norm_train(a.input, {}, {}, {}, {}, {}, a.momentum, a.eps));
      EXPECT_TRUE(is_near(invstd.cpu().pow(-2), expected.var, kVarianceTolerance * expected.var));
    }
  }
}

// Half a unit in the last place is the rounding to the half type; what comes before it is float32.
TEST_P(NumericsTest, HalfTypesAreRoundedOnce) {
  for (at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast}) {
      SCOPED_TRACE(name_of(dtype) + name_of(memory));
      Arguments a;
      a.input = laid_out((many_normal({16, 7, 501}) * 3 + 20).to(device(), dtype), memory);
      a.weight = (normal({7}, 2) + 2).to(device(), at::kFloat);
      a.bias = normal({7}, 3).to(device(), at::kFloat);
      expect_accurate_training(a);

      // 0.51 ulp where nothing cancels: where |y| is not small beside its terms.
      const Forward expected = train(a.input, a.weight, a.bias, a.eps);
      const at::Tensor bias = per_channel(exact(a.bias), expected.output);
      const at::Tensor terms = (expected.output - bias).abs() + bias.abs() + 1;
      const at::Tensor error = (exact(call(a)) - expected.output).abs();
      const at::Tensor ulp = 2 * half_ulp(expected.output, dtype);
      // 8 roundings of float32, of 2^-24, are 1/100 of an ulp of terms / |y| < 2^4 (bfloat16: 2^7).
      const double ratio = dtype == at::kHalf ? 16 : 128;
      const at::Tensor plain = terms < ratio * expected.output.abs();
      EXPECT_GT(plain.sum().item<int64_t>(), plain.numel() / 2);
      EXPECT_TRUE(
          is_near(at::where(plain, error / ulp, at::zeros_like(ulp)), at::zeros_like(ulp), 0.51));
    }
  }
}

TEST_P(NumericsTest, Evaluation) {
  for (const Types& types : all_types()) {
    for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast, Memory::kSliced}) {
      SCOPED_TRACE(name_of(types) + name_of(memory));
      Arguments a;
      a.training = false;
      const double mean = types.input == at::kHalf ? 1e3 : 1e4;
      a.input = laid_out((many_normal({8, 5, 301}) * 0.1 + mean).to(device(), types.input), memory);
      a.weight = (normal({5}, 2) + 1).to(device(), types.parameters);
      a.bias = normal({5}, 3).to(device(), types.parameters);
      a.running_mean = (normal({5}, 4) * 0.1 + mean).to(device(), types.parameters);
      a.running_var = (normal({5}, 5).abs() * 0.01 + 0.01).to(device(), types.parameters);
      const Forward expected =
          evaluate(a.input, a.weight, a.bias, a.running_mean, a.running_var, a.eps);
      EXPECT_TRUE(is_near(call(a), expected.output,
                          Tolerances(a.input, a.weight, a.bias, expected, false).output));
    }
  }
}

// ---- Constants --------------------------------------------------------------------------------

TEST_P(NumericsTest, ConstantChannelsBecomeBias) {
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

TEST_P(NumericsTest, NoVarianceAtAllGivesBiasInEvaluation) {
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

TEST_P(NumericsTest, InfinitiesAndNaNAsInATen) {
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

TEST_P(NumericsTest, InfinitiesOfBothSignsAsInATen) {
  Arguments a;
  a.input = normal({2, 3, 51}, 1).to(device(), at::kFloat);
  a.input.select(1, 1).select(1, 3).copy_(at::tensor({kInfinity, -kInfinity}));
  a.weight = at::ones({3}, a.input.options());
  a.bias = at::zeros({3}, a.input.options());
  a.running_mean = at::zeros({3}, a.input.options());
  a.running_var = at::ones({3}, a.input.options());
  expect_as_aten(a);
}

TEST_P(NumericsTest, SpecialStatisticsAndParametersAsInATen) {
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

// Halves that leave their range become infinite, as rounding has it.
TEST_P(NumericsTest, OverflowOfAHalfOutput) {
  Arguments a;
  a.input = at::tensor({-1., 1., -1., 1.}).view({4, 1}).to(device(), at::kHalf);
  a.weight = at::full({1}, 65530., at::dtype(at::kFloat).device(device()));
  const at::Tensor expected = at::tensor({-kInfinity, kInfinity, -kInfinity, kInfinity});
  a.eps = 0;
  EXPECT_TRUE(is_near(call(a).view(-1), expected, 0));
}

// ---- Bits -------------------------------------------------------------------------------------

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

TEST_P(NumericsTest, TheSameBitsForEveryNumberOfThreads) {
  if (device().is_cuda()) GTEST_SKIP() << "CPU threads have no part in it";
  for (const BitCase& c : bit_cases()) {
    for (at::ScalarType dtype : all_dtypes()) {
      std::vector<at::Tensor> expected;
      for (int count : {1, 2, 3, 4}) {
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

TEST_P(NumericsTest, TheSameBitsInEveryRun) {
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
