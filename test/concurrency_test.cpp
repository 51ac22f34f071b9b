// Calls from several threads at once give the bits that one thread alone gets.

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <future>
#include <latch>
#include <vector>

#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"

namespace torchbn::test {
namespace {

using Results = std::vector<at::Tensor>;

constexpr int kCallers = 4;
constexpr int64_t kChannels = 5;

class ConcurrencyTest : public testing::TestWithParam<at::Device> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam()); }

  static at::Tensor vector(uint64_t seed) {
    return normal({kChannels}, seed).to(GetParam(), kType);
  }

  static Arguments model(uint64_t seed) {
    Arguments a;
    a.weight = vector(seed).requires_grad_();
    a.bias = vector(seed + 1).requires_grad_();
    a.running_mean = vector(seed + 2);
    a.running_var = vector(seed + 3).abs() + 0.5;
    a.num_batches_tracked = at::zeros({}, at::dtype(at::kLong).device(GetParam()));
    return a;
  }

  // Forward and backward. The larger input is enough for threads within the call as well.
  static Results step(Arguments a, uint64_t seed) {
    Results results;
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{6, kChannels}, {8, kChannels, 48, 48}}) {
      for (Memory memory : {Memory::kContiguous, Memory::kChannelsLast}) {
        a.input = laid_out(normal(shape, seed).to(GetParam(), kType), memory).requires_grad_();
        const at::Tensor output = call(a);
        results.push_back(output);
        for (const at::Tensor& gradient :
             torch::autograd::grad({output.square().sum()}, {a.input, a.weight, a.bias}))
          results.push_back(gradient);
      }
    }
    return results;
  }

  // f(0), f(1), ... each on a thread of its own, against the same calls one after the other.
  template <typename F>
  static void expect_same_at_once(const F& f) {
    std::vector<Results> expected;
    for (int caller = 0; caller < kCallers; ++caller) expected.push_back(f(caller));

    std::latch start(kCallers);
    std::vector<std::future<Results>> callers;
    for (int caller = 0; caller < kCallers; ++caller) {
      callers.push_back(std::async(std::launch::async, [&, caller] {
        start.arrive_and_wait();
        return f(caller);
      }));
    }
    for (int caller = 0; caller < kCallers; ++caller) {
      const Results actual = callers[caller].get();
      ASSERT_EQ(actual.size(), expected[caller].size());
      for (size_t i = 0; i < actual.size(); ++i)
        EXPECT_TRUE(is_identical(actual[i], expected[caller][i])) << caller << ", result " << i;
    }
  }

  static constexpr at::ScalarType kType = at::kFloat;
  Threads threads_{2};
};
INSTANTIATE_TEST_SUITE_P(, ConcurrencyTest, testing::ValuesIn(devices()),
                         [](const auto& test) { return name_of(test.param); });

TEST_P(ConcurrencyTest, ManyTrainTheirOwnModels) {
  expect_same_at_once([](int caller) {
    const Arguments own = model(10 * caller);
    Results results;
    for (int epoch = 0; epoch < 3; ++epoch) {
      for (const at::Tensor& result : step(own, epoch)) results.push_back(result);
    }
    results.insert(results.end(), {own.running_mean, own.running_var, own.num_batches_tracked});
    return results;
  });
}

TEST_P(ConcurrencyTest, ManyEvaluateOneModel) {
  Arguments shared = model(1);
  shared.training = false;
  expect_same_at_once([&](int caller) { return step(shared, caller); });
}

TEST_P(ConcurrencyTest, ManyTrainOnTheBatchStatisticsOfOneModel) {
  Arguments shared = model(1);
  shared.running_mean = shared.running_var = shared.num_batches_tracked = at::Tensor();
  expect_same_at_once([&](int caller) { return step(shared, caller); });
}

TEST_P(ConcurrencyTest, SomeTrainWhileOthersEvaluate) {
  Arguments evaluated = model(1);
  evaluated.training = false;
  expect_same_at_once(
      [&](int caller) { return step(caller % 2 == 0 ? model(10 * caller) : evaluated, caller); });
}

}  // namespace
}  // namespace torchbn::test
