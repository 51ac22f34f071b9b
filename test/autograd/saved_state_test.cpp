// What happens to the tensors of a call between forward and backward.

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/wrong_call.h"

namespace torchbn::test {
namespace {

class SavedStateTest : public testing::TestWithParam<at::Device> {
 protected:
  void SetUp() override {
    TORCHBN_SKIP_WITHOUT(GetParam());
    const auto options = at::dtype(at::kFloat).device(GetParam());
    a_.input = normal({6, 5, 7}, 1).to(options).requires_grad_();
    a_.weight = normal({5}, 2).to(options).requires_grad_();
    a_.bias = normal({5}, 3).to(options).requires_grad_();
    a_.running_mean = normal({5}, 4).to(options);
    a_.running_var = normal({5}, 5).abs().to(options);
    a_.num_batches_tracked = at::full({}, 7, options.dtype(at::kLong));
    grad_output_ = normal({6, 5, 7}, 6).to(options);
  }

  std::vector<int64_t> versions() const {
    return {a_.input._version(),       a_.weight._version(),
            a_.bias._version(),        a_.running_mean._version(),
            a_.running_var._version(), a_.num_batches_tracked._version()};
  }

  std::vector<at::Tensor> gradients_of(const at::Tensor& output) {
    for (at::Tensor* leaf : {&a_.input, &a_.weight, &a_.bias}) leaf->mutable_grad().reset();
    output.backward(grad_output_);
    return {a_.input.grad(), a_.weight.grad(), a_.bias.grad()};
  }

  Arguments a_;
  at::Tensor grad_output_;
};
INSTANTIATE_TEST_SUITE_P(, SavedStateTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

TEST_P(SavedStateTest, TrainingBumpsTheVersionsOfTheBuffersByOne) {
  const auto trains = [&] {
    std::vector<int64_t> expected = versions();
    for (size_t i : {3, 4, 5}) ++expected[i];
    call(a_);
    EXPECT_EQ(versions(), expected);
  };
  trains();
  {
    SCOPED_TRACE("no_grad");
    const at::NoGradGuard guard;
    trains();
  }
  {
    SCOPED_TRACE("inference mode");
    const c10::InferenceMode guard;
    trains();
  }
  {
    SCOPED_TRACE("nothing requires grad");
    for (at::Tensor* leaf : {&a_.input, &a_.weight, &a_.bias}) leaf->requires_grad_(false);
    trains();
  }
  a_.training = false;
  const std::vector<int64_t> before = versions();
  call(a_);
  EXPECT_EQ(versions(), before) << "evaluation";
}

// A tensor that autograd saved was updated by training: backward must notice.
TEST_P(SavedStateTest, UpdatingASavedTensorRaisesInBackward) {
  const at::Tensor x = grad_output_.clone().requires_grad_();
  const at::Tensor product = x.sum(at::IntArrayRef{0, 2}) * a_.running_mean;
  call(a_);
  expect_error({"modified by an inplace operation"}, [&] { product.sum().backward(); });
}

TEST_P(SavedStateTest, ModifyingTheInputInPlaceRaisesInBackward) {
  for (bool training : {true, false}) {
    a_.training = training;
    Arguments b = a_;
    b.input = a_.input * 1;
    const at::Tensor output = call(b);
    b.input.add_(1);
    expect_error({"modified by an inplace operation"}, [&] { output.sum().backward(); });
  }
}

// In evaluation the input is kept only where weight needs it.
TEST_P(SavedStateTest, EvaluationWithFrozenWeightKeepsNoInput) {
  a_.training = false;
  a_.weight.requires_grad_(false);
  const std::vector<at::Tensor> expected = gradients_of(call(a_));
  Arguments b = a_;
  b.input = a_.input * 1;
  const at::Tensor output = call(b);
  b.input.add_(1);
  const std::vector<at::Tensor> actual = gradients_of(output);
  EXPECT_TRUE(is_identical(actual[0], expected[0]));
  EXPECT_TRUE(is_identical(actual[2], expected[2]));
}

TEST_P(SavedStateTest, ChangingTheBuffersBeforeBackwardChangesNoGradient) {
  for (bool training : {true, false}) {
    a_.training = training;
    const std::vector<at::Tensor> expected = gradients_of(call(a_));
    const at::Tensor first = call(a_);
    // A second call that updates them, and an assault on top.
    Arguments b = a_;
    b.training = true;
    b.input = (a_.input.detach() * 3 + 1);
    call(b);
    a_.running_mean.fill_(1e3);
    a_.running_var.zero_();
    a_.num_batches_tracked.fill_(-1);
    const std::vector<at::Tensor> actual = gradients_of(first);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(is_identical(actual[i], expected[i])) << i << (training ? " training" : "");
  }
}

TEST_P(SavedStateTest, TheOutputMayBeModifiedInPlace) {
  for (bool training : {true, false}) {
    a_.training = training;
    const std::vector<at::Tensor> expected = gradients_of(call(a_));
    const at::Tensor output = call(a_);
    output.add_(1);
    const std::vector<at::Tensor> actual = gradients_of(output);
    for (size_t i = 0; i < expected.size(); ++i)
      EXPECT_TRUE(is_identical(actual[i], expected[i])) << i;
  }
}

TEST_P(SavedStateTest, BackwardTwiceNeedsRetainGraph) {
  const at::Tensor output = call(a_);
  output.backward(grad_output_, /*retain_graph=*/true);
  EXPECT_NO_THROW(output.backward(grad_output_));
  expect_error({"backward through the graph a second time"},
               [&] { output.backward(grad_output_); });
}

TEST_P(SavedStateTest, NothingIsRecordedWithoutNeed) {
  {
    const at::NoGradGuard guard;
    EXPECT_FALSE(call(a_).requires_grad());
  }
  EXPECT_TRUE(call(a_).requires_grad());
  for (at::Tensor* leaf : {&a_.input, &a_.weight, &a_.bias}) leaf->requires_grad_(false);
  EXPECT_FALSE(call(a_).requires_grad());
  EXPECT_FALSE(a_.running_mean.requires_grad());
}

}  // namespace
}  // namespace torchbn::test
