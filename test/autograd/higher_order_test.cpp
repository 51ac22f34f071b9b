// Derivatives of derivatives, and forward-mode ones.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "operators.h"
#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/gradient_check.h"
#include "support/reference.h"
#include "support/wrong_call.h"

namespace torchbn::test {
namespace {

class HigherOrderTest : public testing::TestWithParam<std::tuple<at::Device, bool, Memory>> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(device()); }
  at::Device device() const { return std::get<0>(GetParam()); }
  bool training() const { return std::get<1>(GetParam()); }

  // Of a small input [3, 2, 4]: second derivatives are checked element by element.
  Arguments arguments(at::ScalarType dtype = at::kDouble) const {
    const auto options = at::dtype(dtype).device(device());
    Arguments a;
    a.training = training();
    a.eps = 1e-2;
    a.input = laid_out((normal({3, 2, 4}, 1) + 0.5).to(options), std::get<2>(GetParam()));
    a.weight = (normal({2}, 2) + 1).to(options);
    a.bias = normal({2}, 3).to(options);
    if (!training()) {
      a.running_mean = normal({2}, 4).to(options);
      a.running_var = (normal({2}, 5).abs() + 0.5).to(options);
    }
    return a;
  }

  // batch_norm as a function of those of input, weight and bias that are there.
  Function function(const Arguments& a, bool has_weight, bool has_bias) const {
    return [=](const std::vector<at::Tensor>& x) {
      Arguments b = a;
      b.input = x[0];
      b.weight = has_weight ? x[1] : at::Tensor();
      b.bias = has_bias ? x.back() : at::Tensor();
      return call(b);
    };
  }

  std::vector<at::Tensor> leaves(const Arguments& a, bool has_weight, bool has_bias) const {
    std::vector<at::Tensor> result = {a.input};
    if (has_weight) result.push_back(a.weight);
    if (has_bias) result.push_back(a.bias);
    for (at::Tensor& leaf : result) leaf = leaf.detach().requires_grad_();
    return result;
  }

  Threads threads_{1};
};

INSTANTIATE_TEST_SUITE_P(, HigherOrderTest,
                         testing::Combine(testing::ValuesIn(devices()), testing::Bool(),
                                          testing::Values(Memory::kContiguous,
                                                          Memory::kChannelsLast, Memory::kSliced)),
                         [](const auto& test) {
                           return name_of(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) ? "Training" : "Evaluation") +
                                  name_of(std::get<2>(test.param));
                         });

// With bias and without weight, too: a pair that has been wrong elsewhere.
TEST_P(HigherOrderTest, SecondDerivativesAgreeWithFiniteDifferences) {
  for (bool has_weight : {true, false}) {
    for (bool has_bias : {true, false}) {
      SCOPED_TRACE(testing::Message() << (has_weight ? "weight " : "") << (has_bias ? "bias" : ""));
      const Arguments a = arguments();
      const Function f = function(a, has_weight, has_bias);
      std::vector<at::Tensor> inputs = leaves(a, has_weight, has_bias);
      inputs.push_back(normal({3, 2, 4}, 6).to(device()).requires_grad_());
      EXPECT_TRUE(gradients_agree(gradient_of(f), inputs));
    }
  }
}

TEST_P(HigherOrderTest, ThirdDerivativesAgreeWithFiniteDifferences) {
  const Arguments a = arguments();
  std::vector<at::Tensor> inputs = leaves(a, true, true);
  inputs.push_back(normal({3, 2, 4}, 6).to(device()).requires_grad_());
  inputs.push_back(normal({28}, 7).to(device()).requires_grad_());  // of 24 + 2 + 2 gradients
  EXPECT_TRUE(gradients_agree(gradient_of(gradient_of(function(a, true, true))), inputs));
}

// First derivatives are the same whether or not second ones are to follow.
TEST_P(HigherOrderTest, CreateGraphChangesNoFirstDerivative) {
  for (const Types& types : all_types()) {
    SCOPED_TRACE(name_of(types));
    Arguments a = arguments(types.input);
    for (at::Tensor* t : {&a.weight, &a.bias, &a.running_mean, &a.running_var}) {
      if (t->defined()) *t = t->to(types.parameters);
    }
    const at::Tensor grad_output = normal({3, 2, 4}, 6).to(device(), types.input);
    const std::vector<at::Tensor> inputs = leaves(a, true, true);
    const at::Tensor output = function(a, true, true)(inputs);
    const auto plain = torch::autograd::grad({output}, inputs, {grad_output}, true);
    const auto with_graph = torch::autograd::grad({output}, inputs, {grad_output}, true, true);

    const Forward forward =
        training() ? train(inputs[0], a.weight, a.bias, a.eps)
                   : evaluate(inputs[0], a.weight, a.bias, a.running_mean, a.running_var, a.eps);
    const Gradients expected = backward(grad_output, inputs[0], a.weight, forward, training());
    const Tolerances tolerances(inputs[0], a.weight, a.bias, forward, training());
    for (const auto& gradients : {plain, with_graph}) {
      EXPECT_TRUE(
          is_near(gradients[0], expected.input, tolerances.grad_input(grad_output, expected)));
      EXPECT_TRUE(is_near(gradients[1], expected.weight,
                          tolerances.grad_weight(grad_output, expected, types.parameters)));
      EXPECT_TRUE(is_near(gradients[2], expected.bias,
                          tolerances.grad_bias(grad_output, expected, types.parameters)));
      for (size_t i = 0; i < 3; ++i) EXPECT_EQ(gradients[i].scalar_type(), inputs[i].scalar_type());
    }
  }
}

// float32's second derivatives are float64's, rounded: the formula is evaluated in float64.
TEST_P(HigherOrderTest, SecondDerivativesInFloat32) {
  const auto second = [&](at::ScalarType dtype) {
    const Arguments a = arguments(at::kFloat);
    std::vector<at::Tensor> inputs = leaves(a, true, true);
    inputs.push_back(normal({3, 2, 4}, 6).to(device(), at::kFloat));
    for (at::Tensor& input : inputs) input = input.detach().to(dtype).requires_grad_();
    Arguments b = a;
    if (!training()) {
      b.running_mean = a.running_mean.to(dtype);
      b.running_var = a.running_var.to(dtype);
    }
    const at::Tensor first = gradient_of(function(b, true, true))(inputs);
    const at::Tensor projection = normal(first.sizes(), 7).to(device(), at::kFloat).to(dtype);
    return torch::autograd::grad({first}, inputs, {projection}, {}, false, /*allow_unused=*/true);
  };
  const auto in_float = second(at::kFloat);
  const auto in_double = second(at::kDouble);
  for (size_t i = 0; i < in_float.size(); ++i) {
    ASSERT_EQ(in_float[i].defined(), in_double[i].defined()) << i;
    if (!in_float[i].defined()) continue;
    // A few float32 roundings where values enter and leave; up to 10 contributions are added.
    const double scale = in_double[i].abs().max().item<double>();
    EXPECT_TRUE(is_near(in_float[i], in_double[i].cpu(), 16 * 0x1p-24 * (scale + 1))) << i;
  }
}

TEST_P(HigherOrderTest, ForwardModeAgreesWithBackward) {
  const Arguments a = arguments();
  const std::vector<at::Tensor> inputs = leaves(a, true, true);
  const Function f = function(a, true, true);
  std::vector<at::Tensor> tangents;
  for (size_t i = 0; i < inputs.size(); ++i)
    tangents.push_back(normal(inputs[i].sizes(), 10 + i).to(device()));
  // <projection, J tangents> = <J^T projection, tangents>
  const at::Tensor projection = normal({3, 2, 4}, 6).to(device());
  const auto gradients = torch::autograd::grad({f(inputs)}, inputs, {projection});
  double expected = 0;
  for (size_t i = 0; i < inputs.size(); ++i)
    expected += (gradients[i] * tangents[i]).sum().item<double>();

  const uint64_t level = torch::autograd::forward_ad::enter_dual_level();
  std::vector<at::Tensor> duals;
  for (size_t i = 0; i < inputs.size(); ++i)
    duals.push_back(at::_make_dual(inputs[i].detach(), tangents[i], static_cast<int64_t>(level)));
  const auto [primal, tangent] = at::_unpack_dual(f(duals), static_cast<int64_t>(level));
  const double actual = (projection * tangent).sum().item<double>();
  torch::autograd::forward_ad::exit_dual_level(level);
  EXPECT_NEAR(actual, expected, 1e-12);
  EXPECT_TRUE(is_near(primal, exact(f(inputs)), 1e-13));
}

// Exactly bias, and no gradient of weight, on this road too. 0.1 is not its own mean in float64.
TEST_P(HigherOrderTest, ConstantChannels) {
  if (!training()) return;
  for (double eps : {1e-5, 0.}) {
    Arguments a = arguments();
    a.eps = eps;
    a.input = laid_out(at::full({7, 2, 3}, 0.1, a.input.options()), std::get<2>(GetParam()));
    const at::Tensor bias = per_channel(a.bias, a.input).expand({7, 2, 3}).contiguous();
    const std::vector<at::Tensor> inputs = leaves(a, true, true);
    const at::Tensor output = function(a, true, true)(inputs);
    EXPECT_TRUE(is_identical(output, bias));
    const auto gradients = torch::autograd::grad(
        {output}, inputs, {normal({7, 2, 3}, 6).to(device())}, true, /*create_graph=*/true);
    EXPECT_TRUE(is_near(gradients[1], at::zeros({2}), 0));

    const uint64_t level = torch::autograd::forward_ad::enter_dual_level();
    Arguments dual = a;
    dual.input = at::_make_dual(a.input, at::ones_like(a.input), static_cast<int64_t>(level));
    const auto [primal, tangent] = at::_unpack_dual(call(dual), static_cast<int64_t>(level));
    torch::autograd::forward_ad::exit_dual_level(level);
    EXPECT_TRUE(is_identical(primal, bias));
  }
}

TEST(HigherOrderErrorsTest, TheBackwardOperatorItselfIsNotDifferentiable) {
  const at::Tensor input = normal({3, 2, 4}, 1);
  const at::Tensor grad_output = normal({3, 2, 4}, 2).requires_grad_();
  const at::Tensor ones = at::ones({2}, at::kDouble);
  const auto [grad_input, grad_weight, grad_bias] =
      ops::batch_norm_backward(grad_output, input, ones, ones, ones, true, true, true, true);
  expect_error({"batch_norm_backward"}, [&gradient = grad_input] { gradient.sum().backward(); });
}

}  // namespace
}  // namespace torchbn::test
