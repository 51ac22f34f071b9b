// First derivatives: against finite differences, in any subset, for any grad_output.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/gradient_check.h"
#include "support/reference.h"

namespace torchbn::test {
namespace {

struct Case {
  at::Device device;
  int64_t rank;
  Memory memory;
  bool training;
};

std::string case_name(const Case& c) {
  return name_of(c.device) + "Rank" + std::to_string(c.rank) + name_of(c.memory) +
         (c.training ? "Training" : "Evaluation");
}
void PrintTo(const Case& c, std::ostream* out) {
  *out << case_name(c);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (at::Device device : devices()) {
    for (int64_t rank = 2; rank <= 5; ++rank) {
      for (Memory memory : all_memory()) {
        for (bool training : {true, false}) cases.push_back({device, rank, memory, training});
      }
    }
  }
  return cases;
}

class GradientTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam().device); }

  Arguments arguments(at::ScalarType dtype = at::kDouble) const {
    const std::vector<int64_t> shape = small_shape(GetParam().rank);
    const auto options = at::dtype(dtype).device(GetParam().device);
    Arguments a;
    a.training = GetParam().training;
    a.eps = 1e-2;  // a constant channel keeps moderate derivatives
    a.input = laid_out((normal(shape, 1) * 2 + 1).to(options), GetParam().memory);
    a.weight = (normal({shape[1]}, 2) + 1).to(options);
    a.bias = normal({shape[1]}, 3).to(options);
    if (!a.training) {
      a.running_mean = normal({shape[1]}, 4).to(options);
      a.running_var = (normal({shape[1]}, 5).abs() + 0.5).to(options);
    }
    return a;
  }

  Threads threads_{1};
};
INSTANTIATE_TEST_SUITE_P(, GradientTest, testing::ValuesIn(all_cases()),
                         [](const auto& test) { return case_name(test.param); });

TEST_P(GradientTest, AgreesWithFiniteDifferences) {
  for (bool has_weight : {true, false}) {
    for (bool has_bias : {true, false}) {
      SCOPED_TRACE(testing::Message() << (has_weight ? "weight " : "") << (has_bias ? "bias" : ""));
      const Arguments a = arguments();
      std::vector<at::Tensor> inputs = {a.input};
      if (has_weight) inputs.push_back(a.weight);
      if (has_bias) inputs.push_back(a.bias);
      for (at::Tensor& input : inputs) input = input.detach().requires_grad_();
      const Function f = [&](const std::vector<at::Tensor>& x) {
        Arguments b = a;
        b.input = x[0];
        b.weight = has_weight ? x[1] : at::Tensor();
        b.bias = has_bias ? x.back() : at::Tensor();
        return call(b);
      };
      EXPECT_TRUE(gradients_agree(f, inputs));
    }
  }
}

TEST_P(GradientTest, IsTheSameInEverySubset) {
  const at::Tensor grad_output = normal(small_shape(GetParam().rank), 6).to(GetParam().device);
  std::vector<at::Tensor> all;
  for (int wanted = 7; wanted > 0; --wanted) {
    Arguments a = arguments();
    const std::vector<at::Tensor*> leaves = {&a.input, &a.weight, &a.bias};
    for (int i = 0; i < 3; ++i) *leaves[i] = leaves[i]->detach().requires_grad_((wanted >> i) & 1);
    call(a).backward(grad_output);
    for (int i = 0; i < 3; ++i) {
      const at::Tensor gradient = leaves[i]->grad();
      if (wanted == 7) {
        ASSERT_TRUE(gradient.defined());
        all.push_back(gradient);
      } else if (((wanted >> i) & 1) != 0) {
        EXPECT_TRUE(is_identical(gradient, all[i])) << i << " of subset " << wanted;
      } else {
        EXPECT_FALSE(gradient.defined()) << i << " of subset " << wanted;
      }
    }
  }
}

// Whatever layout grad_output comes in, the gradient is the same, to the bit, and lies as the
// input.
TEST_P(GradientTest, DoesNotDependOnTheLayoutOfGradOutput) {
  for (at::ScalarType dtype : {at::kFloat, at::kHalf}) {
    const at::Tensor values = normal(small_shape(GetParam().rank), 6).to(GetParam().device, dtype);
    const auto gradients = [&](const at::Tensor& grad_output, bool weight_too) {
      Arguments a = arguments(dtype);
      std::vector<at::Tensor> leaves = {a.input = a.input.detach().requires_grad_()};
      if (weight_too) leaves.push_back(a.weight.requires_grad_());
      // Not backward(): accumulation into a leaf's grad would restore the layout.
      auto result = torch::autograd::grad({call(a)}, leaves, {grad_output});
      EXPECT_TRUE(lies_as(result[0], at::empty_like(a.input)))
          << (weight_too ? "with" : "without") << " gradient of weight";
      result.resize(2);
      return result;
    };
    for (bool weight_too : {true, false}) {
      const auto contiguous = gradients(values, weight_too);
      for (Memory memory : {Memory::kChannelsLast, Memory::kTransposed, Memory::kSliced}) {
        SCOPED_TRACE(name_of(memory));
        const auto other = gradients(laid_out(values, memory), weight_too);
        EXPECT_TRUE(is_identical(other[0], contiguous[0]));
        EXPECT_TRUE(is_identical(other[1], contiguous[1]));
      }
      const at::Tensor one = at::full({}, 0.75, values.options());
      const auto expanded = gradients(one.expand(values.sizes()), weight_too);
      const auto filled = gradients(at::full_like(values, 0.75), weight_too);
      EXPECT_TRUE(is_identical(expanded[0], filled[0]));
      EXPECT_TRUE(is_identical(expanded[1], filled[1]));
    }
  }
}

// ---- For every dtype --------------------------------------------------------------------------

class GradientTypesTest : public testing::TestWithParam<std::tuple<at::Device, bool>> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(std::get<0>(GetParam())); }
  at::Device device() const { return std::get<0>(GetParam()); }
  bool training() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(, GradientTypesTest,
                         testing::Combine(testing::ValuesIn(devices()), testing::Bool()),
                         [](const auto& test) {
                           return name_of(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) ? "Training" : "Evaluation");
                         });

// Each parameter chooses its dtype; its gradient has it, and is rounded through no narrower one.
TEST_P(GradientTypesTest, ParametersOfMixedTypes) {
  for (at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    for (at::ScalarType weight_dtype : {dtype, at::kFloat}) {
      for (at::ScalarType bias_dtype : {dtype, at::kFloat}) {
        SCOPED_TRACE(name_of(dtype) + name_of(weight_dtype) + name_of(bias_dtype));
        Arguments a;
        a.training = training();
        a.input = normal({6, 5, 9}, 1).to(device(), dtype).requires_grad_();
        a.weight = normal({5}, 2).to(device(), weight_dtype).requires_grad_();
        a.bias = normal({5}, 3).to(device(), bias_dtype).requires_grad_();
        a.running_mean = normal({5}, 4).to(device(), dtype);
        a.running_var = normal({5}, 5).abs().to(device(), at::kFloat);
        const Forward forward =
            training() ? train(a.input, a.weight, a.bias, a.eps)
                       : evaluate(a.input, a.weight, a.bias, a.running_mean, a.running_var, a.eps);
        const at::Tensor grad_output = normal({6, 5, 9}, 6).to(device(), dtype);
        const Gradients expected = backward(grad_output, a.input, a.weight, forward, training());
        const Tolerances tolerances(a.input, a.weight, a.bias, forward, training());

        call(a).backward(grad_output);
        EXPECT_EQ(a.weight.grad().scalar_type(), weight_dtype);
        EXPECT_EQ(a.bias.grad().scalar_type(), bias_dtype);
        EXPECT_TRUE(
            is_near(a.input.grad(), expected.input, tolerances.grad_input(grad_output, expected)));
        EXPECT_TRUE(is_near(a.weight.grad(), expected.weight,
                            tolerances.grad_weight(grad_output, expected, weight_dtype)));
        EXPECT_TRUE(is_near(a.bias.grad(), expected.bias,
                            tolerances.grad_bias(grad_output, expected, bias_dtype)));
      }
    }
  }
}

TEST_P(GradientTypesTest, BiasWithoutWeight) {
  for (const Types& types : all_types()) {
    SCOPED_TRACE(name_of(types));
    Arguments a;
    a.training = training();
    a.input = normal({6, 5, 9}, 1).to(device(), types.input);
    a.bias = normal({5}, 3).to(device(), types.parameters).requires_grad_();
    a.running_mean = at::zeros({5}, a.bias.options());
    a.running_var = at::ones({5}, a.bias.options());
    const at::Tensor grad_output = normal({6, 5, 9}, 6).to(device(), types.input);
    const Forward forward = train(a.input, a.weight, a.bias, a.eps);
    const Gradients expected = backward(grad_output, a.input, a.weight, forward, training());
    const Tolerances tolerances(a.input, a.weight, a.bias, forward, training());
    call(a).backward(grad_output);
    EXPECT_TRUE(is_near(a.bias.grad(), expected.bias,
                        tolerances.grad_bias(grad_output, expected, types.parameters)));
  }
}

TEST_P(GradientTypesTest, UndefinedGradientOfTheOutput) {
  // One of two outputs of a node is used, so that an undefined gradient reaches batch_norm's.
  Arguments a;
  a.training = training();
  a.input = normal({6, 4}, 1).to(device()).requires_grad_();
  a.running_mean = at::zeros({4}, a.input.options());
  a.running_var = at::ones({4}, a.input.options());
  const at::Tensor output = call(a);
  const auto gradients = torch::autograd::grad({a.input.sum()}, {output, a.input}, {},
                                               /*retain_graph=*/true, /*create_graph=*/false,
                                               /*allow_unused=*/true);
  EXPECT_FALSE(gradients[0].defined());
  EXPECT_TRUE(gradients[1].defined());
  const auto node = output.grad_fn();
  ASSERT_NE(node, nullptr);
  for (const at::Tensor& gradient : (*node)({at::Tensor()})) EXPECT_FALSE(gradient.defined());
}

TEST_P(GradientTypesTest, EfficientZeroTensorAsGradient) {
  Arguments a;
  a.training = training();
  a.input = normal({6, 4}, 1).to(device()).requires_grad_();
  a.running_mean = at::zeros({4}, a.input.options());
  a.running_var = at::ones({4}, a.input.options());
  call(a).backward(at::_efficientzerotensor({6, 4}, a.input.options()));
  EXPECT_TRUE(is_near(a.input.grad(), at::zeros({6, 4}), 0));
}

}  // namespace
}  // namespace torchbn::test
