// Accuracy where it is hard: many values, large means, outliers, roundings to half types.

#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "operators.h"
#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/reference.h"

namespace torchbn::test {
namespace {

// What is promised of the variance, whatever the layout, the count and the mean.
constexpr double kVarianceTolerance = 1e-6;

class AccuracyTest : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(, AccuracyTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

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
TEST_P(AccuracyTest, FourMillionValuesPerChannelInEveryLayout) {
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

TEST_P(AccuracyTest, MeansUpToAMillionStandardDeviations) {
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
TEST_P(AccuracyTest, OutlierInFront) {
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

// As the pivot, it would leave nothing to sum up but equal squares, whose rounding adds up: on a
// CPU to 3e-6 of millions of values. These are fewer, and so is what is allowed. A GPU adds some of
// them in float.
TEST_P(AccuracyTest, OneOutlierAmongEqualValues) {
  constexpr int64_t kCount = 1 << 20, kChannels = 16;
  const double tolerance = (device().is_cpu() ? 0.01 : 1) * kVarianceTolerance;
  for (int64_t place : {int64_t{0}, kCount - 1}) {
    SCOPED_TRACE(place);
    const at::Tensor input = at::zeros({kCount, kChannels});
    input[place] = many_normal({kChannels}).abs() + 1;
    const at::Tensor expected = exact(input[place]).square() / kCount * (1 - 1. / kCount);
    const auto invstd =
        std::get<2>(ops::batch_norm_train(input.to(device()), {}, {}, {}, {}, {}, 0.1, /*eps=*/0));
    EXPECT_TRUE(is_near(invstd.cpu().pow(-2), expected, tolerance * expected));
  }
}

// Of which a sample at even distances sees one.
TEST_P(AccuracyTest, TwoValuesByTurns) {
  const at::Tensor values = at::tensor({-0.0001860857, -2.0058594}).to(at::kHalf);
  const at::Tensor input = values.repeat({32}).unsqueeze(1).repeat({1, 32});
  const Forward expected = train(input, {}, {}, /*eps=*/0);
  const auto invstd =
      std::get<2>(ops::batch_norm_train(input.to(device()), {}, {}, {}, {}, {}, 0.1, /*eps=*/0));
  EXPECT_TRUE(is_near(invstd.cpu().pow(-2), expected.var, kVarianceTolerance * expected.var));
}

// Products below the range of float, of values within it.
TEST_P(AccuracyTest, VanishingGradients) {
  for (at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    SCOPED_TRACE(name_of(dtype));
    const at::Tensor input = (many_normal({4096, 3}) * 1e-10).to(device(), dtype);
    const at::Tensor grad_output = (many_normal({4096, 3}).cos() * 1e-35).to(device(), dtype);
    const Forward forward = train(input, {}, {}, /*eps=*/0);
    const at::Tensor weight = at::ones({3}, input.options());
    const Gradients expected = backward(grad_output, input, weight, forward, /*training=*/true);
    const auto grad_weight = std::get<1>(
        ops::batch_norm_backward(grad_output, input, weight, forward.mean.to(device()),
                                 forward.invstd.to(device()), true, false, true, false));
    const Tolerances tolerances(input, weight, {}, forward, true);
    EXPECT_TRUE(is_near(grad_weight, expected.weight,
                        tolerances.grad_weight(grad_output, expected, dtype)));
  }
}

// What one thread sees first, and takes for ordinary, may be all that differs from a plane.
TEST_P(AccuracyTest, PatchesInAPlane) {
  for (at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast}) {
      for (double plane : {0., 0.7}) {
        for (const auto& [rows, columns] :
             {std::pair{1, 4}, std::pair{4, 4}, std::pair{256, 256}}) {
          SCOPED_TRACE(name_of(dtype) + name_of(memory));
          SCOPED_TRACE(testing::Message() << rows << " x " << columns << " on " << plane);
          Arguments a;
          a.eps = 0;
          const at::Tensor values = at::full({16, 2, 256, 256}, plane);
          const at::Tensor patch = values[0].narrow(1, 0, rows).narrow(2, 0, columns);
          patch.add_(many_normal(patch.sizes()).abs() + 1.3);
          a.input = laid_out(values.to(device(), dtype), memory);
          const Forward expected = train(a.input, a.weight, a.bias, a.eps);
          const auto [output, mean, invstd] =
              ops::batch_norm_train(a.input, {}, {}, {}, {}, {}, a.momentum, a.eps);
          EXPECT_TRUE(is_near(invstd.pow(-2), expected.var, kVarianceTolerance * expected.var));
          EXPECT_TRUE(is_near(output, expected.output,
                              Tolerances(a.input, a.weight, a.bias, expected, true).output));
        }
      }
    }
  }
}

// The first samples of a batch may lie elsewhere than all others: what each thread sees first.
TEST_P(AccuracyTest, StepsAlongTheBatch) {
  for (at::ScalarType dtype : {at::kFloat, at::kHalf, at::kBFloat16}) {
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{232, 512}, {464, 130}, {120, 3, 33}}) {
      for (int64_t part : {4, 5, 7, 14}) {
        SCOPED_TRACE(name_of(dtype));
        SCOPED_TRACE(testing::Message()
                     << c10::IntArrayRef(shape) << ", a step behind 1 / " << part);
        at::Tensor values = many_normal(shape) * 1e-2;
        values.narrow(0, shape[0] / part, shape[0] - shape[0] / part).add_(1);
        const at::Tensor input = values.to(device(), dtype);
        const Forward expected = train(input, {}, {}, 0);
        const at::Tensor invstd =
            std::get<2>(ops::batch_norm_train(input, {}, {}, {}, {}, {}, 0.1, 0));
        EXPECT_TRUE(is_near(invstd.pow(-2), expected.var, kVarianceTolerance * expected.var));
      }
    }
  }
}

// Half a unit in the last place is the rounding to the half type; what comes before it is float32.
TEST_P(AccuracyTest, HalfTypesAreRoundedOnce) {
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

TEST_P(AccuracyTest, Evaluation) {
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

}  // namespace
}  // namespace torchbn::test
