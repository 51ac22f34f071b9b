// Unusual calls that are right: they must work, and do what they say.

#include <limits>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/reference.h"

namespace torchbn::test {
namespace {

class EdgeCaseTest : public testing::TestWithParam<at::Device> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam()); }

  at::TensorOptions floats() const { return at::dtype(at::kFloat).device(GetParam()); }
  at::Tensor counter(int64_t value) const { return at::full({}, value, floats().dtype(at::kLong)); }
  at::Tensor values(at::IntArrayRef shape, uint64_t seed = 1) const {
    return normal(shape, seed).to(floats());
  }
};
INSTANTIATE_TEST_SUITE_P(, EdgeCaseTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

// The running statistics after one training step, whatever they lie in.
void expect_tracked(const Arguments& a, const at::Tensor& old_mean, const at::Tensor& old_var) {
  const Forward forward = train(a.input, a.weight, a.bias, a.eps);
  const at::Tensor var = unbiased(forward.var, count_of(a.input));
  const double factor = a.momentum.value();
  EXPECT_TRUE(is_near(a.running_mean, tracked(old_mean, forward.mean, factor), 1e-6));
  EXPECT_TRUE(is_near(a.running_var, tracked(old_var, var, factor), 1e-6));
}

TEST_P(EdgeCaseTest, InterleavedColumnsOfOneTensorAsRunningStatistics) {
  Arguments a;
  a.input = values({6, 5, 7});
  const at::Tensor table = at::rand({5, 3}, floats());
  const at::Tensor before = table.clone();
  a.running_mean = table.select(1, 2);
  a.running_var = table.select(1, 0);
  call(a);
  expect_tracked(a, before.select(1, 2), before.select(1, 0));
  EXPECT_TRUE(is_identical(table.select(1, 1), before.select(1, 1)));
}

TEST_P(EdgeCaseTest, EveryThirdElementAsRunningStatistics) {
  Arguments a;
  a.input = values({6, 5, 7});
  const at::Tensor means = at::rand({15}, floats()), vars = at::rand({16}, floats());
  const at::Tensor old_means = means.clone(), old_vars = vars.clone();
  a.running_mean = means.slice(0, 0, 15, 3);
  a.running_var = vars.slice(0, 1, 16, 3);
  call(a);
  expect_tracked(a, old_means.slice(0, 0, 15, 3), old_vars.slice(0, 1, 16, 3));
  for (int64_t gap : {1, 2}) {
    EXPECT_TRUE(is_identical(means.slice(0, gap, 15, 3), old_means.slice(0, gap, 15, 3)));
    EXPECT_TRUE(is_identical(vars.slice(0, gap + 1, 16, 3), old_vars.slice(0, gap + 1, 16, 3)));
  }
}

// Next to each other in one buffer, input included: nothing is shared.
TEST_P(EdgeCaseTest, NeighboursInOneBuffer) {
  const at::Tensor buffer = at::rand({10 + 60}, floats());
  const at::Tensor before = buffer.clone();
  Arguments a;
  a.running_mean = buffer.slice(0, 0, 5);
  a.input = buffer.slice(0, 5, 65).view({4, 5, 3});
  a.running_var = buffer.slice(0, 65, 70);
  call(a);
  expect_tracked(a, before.slice(0, 0, 5), before.slice(0, 65, 70));
  EXPECT_TRUE(is_identical(buffer.slice(0, 5, 65), before.slice(0, 5, 65)));
}

TEST_P(EdgeCaseTest, EvaluationWritesNothingSoAnyMemoryWillDo) {
  Arguments a;
  a.training = false;
  a.input = values({4, 5, 3});
  a.running_mean = at::full({}, 0.5, floats()).expand({5});
  a.running_var = at::full({1}, 2, floats()).expand({5});
  a.weight = a.running_mean;
  a.bias = a.running_mean;
  Forward expected = evaluate(a.input, a.weight, a.bias, a.running_mean, a.running_var, a.eps);
  Tolerances tolerances(a.input, a.weight, a.bias, expected, false);
  EXPECT_TRUE(is_near(call(a), expected.output, tolerances.output));

  a.running_mean = a.input.select(0, 0).select(1, 0);
  a.running_var = a.input.select(0, 1).square().select(1, 1);
  expected = evaluate(a.input, a.weight, a.bias, a.running_mean, a.running_var, a.eps);
  tolerances = Tolerances(a.input, a.weight, a.bias, expected, false);
  EXPECT_TRUE(is_near(call(a), expected.output, tolerances.output));
}

TEST_P(EdgeCaseTest, EvaluationIgnoresMomentumAndCounter) {
  Arguments a;
  a.training = false;
  a.input = values({4, 5, 3});
  a.running_mean = at::zeros({5}, floats());
  a.running_var = at::ones({5}, floats());
  const at::Tensor expected = call(a);
  a.momentum = std::numeric_limits<double>::quiet_NaN();
  a.num_batches_tracked = counter(7);
  EXPECT_TRUE(is_identical(call(a), expected));
  EXPECT_EQ(a.num_batches_tracked.item<int64_t>(), 7);
  a.num_batches_tracked = at::zeros({3}, floats());
  EXPECT_TRUE(is_identical(call(a), expected));
}

TEST_P(EdgeCaseTest, CounterCountsWithoutRunningStatistics) {
  Arguments a;
  a.input = values({4, 5});
  a.num_batches_tracked = counter(7);
  call(a);
  EXPECT_EQ(a.num_batches_tracked.item<int64_t>(), 8);
  a.momentum = std::nullopt;
  call(a);
  EXPECT_EQ(a.num_batches_tracked.item<int64_t>(), 9);
  a.num_batches_tracked = at::Tensor();
  EXPECT_NO_THROW(call(a));
}

TEST_P(EdgeCaseTest, MomentumMayLieOutsideZeroToOne) {
  for (double momentum : {-0.5, 1.5}) {
    Arguments a;
    a.momentum = momentum;
    a.input = values({6, 5});
    a.running_mean = at::rand({5}, floats());
    a.running_var = at::rand({5}, floats());
    const at::Tensor mean = a.running_mean.clone(), var = a.running_var.clone();
    call(a);
    expect_tracked(a, mean, var);
  }
}

TEST_P(EdgeCaseTest, ParametersOfAnyStrides) {
  Arguments a;
  a.input = values({4, 5, 3});
  const at::Tensor table = values({5, 2});
  a.weight = table.select(1, 1);
  a.bias = values({1}, 3).expand({5});
  const Forward expected = train(a.input, a.weight, a.bias, a.eps);
  const Tolerances tolerances(a.input, a.weight, a.bias, expected, true);
  EXPECT_TRUE(is_near(call(a), expected.output, tolerances.output));
}

TEST_P(EdgeCaseTest, MoreThanThreeSpatialDimensions) {
  for (bool last : {false, true}) {
    Arguments a;
    a.input = laid_out(values({2, 3, 2, 1, 3, 2}), last ? Memory::kChannelsLast : Memory::kSliced);
    const Forward expected = train(a.input, a.weight, a.bias, a.eps);
    const at::Tensor output = call(a);
    EXPECT_TRUE(is_near(output, expected.output,
                        Tolerances(a.input, a.weight, a.bias, expected, true).output));
    EXPECT_TRUE(lies_as(output, at::empty_like(a.input)));
  }
}

// Axes of one element may have any stride.
TEST_P(EdgeCaseTest, OddStridesOfSingleElements) {
  const at::Tensor dense = values({1, 4, 5, 1});
  Arguments a;
  a.input = dense.as_strided({1, 4, 5, 1}, {3, 5, 1, 17});
  const Forward expected = train(a.input, a.weight, a.bias, a.eps);
  const at::Tensor output = call(a);
  EXPECT_TRUE(is_near(output, expected.output,
                      Tolerances(a.input, a.weight, a.bias, expected, true).output));
  EXPECT_EQ(output.strides(), at::empty_like(a.input).strides());
}

// One channel is channels first and channels last at once.
TEST_P(EdgeCaseTest, OneChannel) {
  for (Memory memory : all_memory()) {
    Arguments a;
    a.input = laid_out(values({4, 1, 3, 5}), memory);
    const Forward expected = train(a.input, a.weight, a.bias, a.eps);
    EXPECT_TRUE(is_near(call(a), expected.output,
                        Tolerances(a.input, a.weight, a.bias, expected, true).output))
        << name_of(memory);
  }
}

TEST_P(EdgeCaseTest, LazilyNegatedInput) {
  Arguments a;
  a.input = values({4, 5, 3});
  const at::Tensor expected = call(a);
  a.input = at::_neg_view(-a.input);
  ASSERT_TRUE(a.input.is_neg());
  EXPECT_TRUE(is_identical(call(a), expected));
}

TEST_P(EdgeCaseTest, InferenceModeUpdatesInferenceTensors) {
  const c10::InferenceMode guard;
  Arguments a;
  a.input = values({6, 5, 7});
  a.running_mean = at::zeros({5}, floats());
  a.running_var = at::ones({5}, floats());
  a.num_batches_tracked = counter(0);
  call(a);
  expect_tracked(a, at::zeros({5}), at::ones({5}));
  EXPECT_EQ(a.num_batches_tracked.item<int64_t>(), 1);
}

// An empty batch is no batch.
TEST_P(EdgeCaseTest, EmptyBatches) {
  const std::vector<std::vector<int64_t>> shapes = {
      {0, 3},    {0, 3, 4}, {0, 3, 4, 5}, {0, 3, 2, 2, 2}, {2, 3, 0}, {2, 3, 4, 0},
      {1, 3, 0}, {2, 0},    {1, 0},       {2, 0, 4},       {1, 0, 1}, {0, 0}};
  for (const std::vector<int64_t>& shape : shapes) {
    for (bool training : {true, false}) {
      for (std::optional<double> momentum : {std::optional<double>(0.5), std::optional<double>()}) {
        SCOPED_TRACE(testing::Message() << at::IntArrayRef(shape) << (training ? " training" : ""));
        const int64_t channels = shape[1];
        Arguments a;
        a.training = training;
        a.momentum = momentum;
        a.input = at::empty(shape, floats());
        if (shape.size() == 4) a.input = a.input.contiguous(at::MemoryFormat::ChannelsLast);
        a.input.requires_grad_();
        a.weight = at::ones({channels}, floats()).requires_grad_();
        a.bias = at::ones({channels}, floats()).requires_grad_();
        a.running_mean = at::full({channels}, 3, floats());
        a.running_var = at::full({channels}, 4, floats());
        a.num_batches_tracked = counter(7);

        const at::Tensor output = call(a);
        EXPECT_EQ(output.sizes(), at::IntArrayRef(shape));
        EXPECT_EQ(output.strides(), at::empty_like(a.input).strides());
        EXPECT_TRUE(is_identical(a.running_mean, at::full({channels}, 3, floats())));
        EXPECT_TRUE(is_identical(a.running_var, at::full({channels}, 4, floats())));
        EXPECT_EQ(a.num_batches_tracked.item<int64_t>(), 7);

        output.backward(at::ones_like(output));
        EXPECT_TRUE(is_identical(a.input.grad(), at::empty(shape, floats())));
        EXPECT_TRUE(is_identical(a.weight.grad(), at::zeros({channels}, floats())));
        EXPECT_TRUE(is_identical(a.bias.grad(), at::zeros({channels}, floats())));
      }
    }
  }
}

}  // namespace
}  // namespace torchbn::test
