// Wrong calls of the internal operators, which compilers, exporters and a curious user call
// directly.

#include <functional>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "operators.h"
#include "support/call.h"
#include "support/cases.h"
#include "support/wrong_call.h"

namespace torchbn::test {
namespace {

struct BackwardArguments {
  at::Tensor grad_output, input, weight, mean, invstd;
  bool training = true, need_input = true, need_weight = true, need_bias = true;
};

struct WrongBackward {
  std::string name;
  std::vector<std::string> words;
  std::function<void(BackwardArguments&)> spoil;
};
void PrintTo(const WrongBackward& wrong, std::ostream* out) {
  *out << wrong.name;
}

const std::vector<WrongBackward>& all_backward_calls() {
  using A = BackwardArguments;
  static const std::vector<WrongBackward> all = {
      {"GradOutputNone", {"grad_output", "None"}, [](A& a) { a.grad_output = at::Tensor(); }},
      {"GradOutputOfRank1",
       {"grad_output must have shape"},
       [](A& a) { a.grad_output = a.grad_output.reshape(-1); }},
      {"GradOutputInt64",
       {"grad_output must be float32", "int64"},
       [](A& a) { a.grad_output = a.grad_output.to(at::kLong); }},
      {"GradOutputFp64",
       {"grad_output must have input's dtype, float32", "float64"},
       [](A& a) { a.grad_output = a.grad_output.to(at::kDouble); }},
      {"GradOutputOfOtherShape",
       {"grad_output must have input's shape, [4, 3, 5]", "[4, 3, 6]"},
       [](A& a) {
         a.grad_output = at::ones({4, 3, 6}, a.input.options());
       }},
      {"GradOutputOfOtherRank",
       {"grad_output must have input's shape, [4, 3, 5]", "[4, 3, 5, 1]"},
       [](A& a) { a.grad_output = a.grad_output.unsqueeze(-1); }},
      {"GradOutputOnOtherDevice",
       {"grad_output must be on input's device"},
       [](A& a) { a.grad_output = elsewhere(a.grad_output); }},
      {"NoInputInTraining",
       {"input is needed for the gradient of input in training"},
       [](A& a) { a.input = at::Tensor(), a.need_weight = false; }},
      {"NoInputForWeight",
       {"input is needed for the gradient of weight"},
       [](A& a) { a.input = at::Tensor(), a.training = false; }},
      {"NoWeight", {"there is no gradient of weight"}, [](A& a) { a.weight = at::Tensor(); }},
      {"WeightTooLong",
       {"weight must have one value per channel of grad_output", "[4]"},
       [](A& a) { a.weight = at::ones({4}, a.input.options()); }},
      {"WeightFp64",
       {"weight must be float32 for float32 grad_output", "float64"},
       [](A& a) { a.weight = a.weight.to(at::kDouble); }},
      {"MeanNone", {"mean must be float64, but is None"}, [](A& a) { a.mean = at::Tensor(); }},
      {"MeanFp32",
       {"mean must be float64, but is float32"},
       [](A& a) { a.mean = a.mean.to(at::kFloat); }},
      {"InvstdFp32",
       {"invstd must be float64, but is float32"},
       [](A& a) { a.invstd = a.invstd.to(at::kFloat); }},
      {"MeanTooShort",
       {"mean must have one value per channel of grad_output", "[2]"},
       [](A& a) { a.mean = a.mean.slice(0, 0, 2); }},
      {"InvstdScalar",
       {"invstd must have one dimension", "[]"},
       [](A& a) { a.invstd = a.invstd.select(0, 0); }},
      {"InvstdOnOtherDevice", {"invstd must be on grad_output's device"}, [](A& a) {
         a.invstd = elsewhere(a.invstd);
       }}};
  return all;
}

class WrongBackwardTest : public testing::TestWithParam<std::tuple<Place, WrongBackward>> {};

TEST_P(WrongBackwardTest, Raises) {
  const auto& [place, wrong] = GetParam();
  TORCHBN_SKIP_WITHOUT(place.device);
  const Arguments forward = valid_call(place.device);
  BackwardArguments a{at::ones_like(forward.input), forward.input, forward.weight,
                      forward.bias.to(at::kDouble), forward.weight.to(at::kDouble)};
  const auto call_backward = [&] {
    return ops::batch_norm_backward(a.grad_output, given(a.input), given(a.weight), a.mean,
                                    a.invstd, a.training, a.need_input, a.need_weight, a.need_bias);
  };
  const c10::InferenceMode guard(place.inference_mode);
  EXPECT_NO_THROW(call_backward());
  wrong.spoil(a);
  expect_error(wrong.words, call_backward);
  expect_error({"batch_norm_backward: "}, call_backward);
}

INSTANTIATE_TEST_SUITE_P(, WrongBackwardTest,
                         testing::Combine(testing::ValuesIn(all_places()),
                                          testing::ValuesIn(all_backward_calls())),
                         [](const auto& test) {
                           return std::get<0>(test.param).name + std::get<1>(test.param).name;
                         });

TEST(WrongInferenceTest, Raises) {
  for (at::DeviceType device : {at::kCPU, at::kMeta}) {
    const Arguments a = valid_call(device);
    const auto infer = [&](const at::Tensor& mean, const at::Tensor& var, double eps) {
      return [&a, mean, var, eps] {
        ops::batch_norm_inference(a.input, a.weight, a.bias, mean, var, eps);
      };
    };
    EXPECT_NO_THROW(infer(a.running_mean, a.running_var, 0)());
    expect_error({"running_mean must be a tensor, but is None"}, infer({}, a.running_var, 0));
    expect_error({"running_var must be a tensor, but is None"}, infer(a.running_mean, {}, 0));
    expect_error({"running_var must have one dimension"}, infer(a.running_mean, a.input, 0));
    expect_error({"eps must be finite"}, infer(a.running_mean, a.running_var, -1));
  }
}

}  // namespace
}  // namespace torchbn::test
