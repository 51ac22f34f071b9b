#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cuda/kernels.h"
#include "cuda/simulated/device.h"
#include "support/kernel_call.h"

// Calls of the CUDA kernels on a simulated device.
namespace torchbn::test {

using simulated::Order;

struct SimulatedCall : Call {
  using Call::Call;
  cuda::DeviceLimits device;
  cuda::KernelChoice choice = cuda::KernelChoice::kSplit;
  bool cumulative = true;     // a constant momentum of the same value otherwise
  cuda::LaunchPolicy policy;  // of the last call

  template <typename Problem>
  void run(cudaError_t (*kernels)(const Problem&, const cuda::Launch&), const Problem& problem) {
    constexpr size_t kGuard = 64;
    cuda::Launch launch;
    launch.policy = policy = cuda::choose_policy(problem, device, choice);
    // What is read before it was written is NaN, and what is written beside it is noticed.
    std::vector<unsigned char> memory(launch.policy.workspace_bytes + 2 * kGuard, 0xff);
    launch.workspace = memory.data() + kGuard;
    ASSERT_EQ(kernels(problem, launch), cudaSuccess);
    const auto untouched = [](unsigned char byte) { return byte == 0xff; };
    ASSERT_TRUE(std::all_of(memory.begin(), memory.begin() + kGuard, untouched));
    ASSERT_TRUE(std::all_of(memory.end() - kGuard, memory.end(), untouched));
  }

  void train() {
    TrainProblem problem = train_problem();
    problem.running.cumulative = cumulative;
    problem.running.momentum = 0.2;  // the reciprocal of the batches, this one included
    run(cuda::train, problem);
  }
  void inference() { run(cuda::inference, inference_problem()); }
  void backward(bool training, bool input = true, bool weight = true, bool bias = true) {
    run(cuda::backward, backward_problem(training, input, weight, bias));
  }
};

// Forward and backward, of training and of evaluation; `evaluated` is the state after both.
struct Outcome {
  SimulatedCall trained, evaluated;

  explicit Outcome(const SimulatedCall& fresh, Order order) : trained(fresh), evaluated(fresh) {
    simulated::set_order(order);
    const simulated::RaceWatch watch(order == Order::kForward);
    trained.train();
    trained.backward(true);
    evaluated = trained;
    evaluated.inference();
    evaluated.backward(false);
    const Buffer with_sums = evaluated.dx;
    evaluated.backward(false, true, false, false);  // which other kernels make
    EXPECT_TRUE(evaluated.dx.same_bits(with_sums));
  }
};

// Everything against formulas in double, and for the same bits whoever is first.
inline void check_simulated(SimulatedCall fresh) {
  const Extent& e = fresh.extent;
  const DType dtype = fresh.dtype;
  const cuda::DeviceLimits& device = fresh.device;
  SCOPED_TRACE(testing::Message() << describe(e, dtype) << ", grid " << device.max_grid
                                  << ", cluster " << device.max_cluster);
  // The smallest of training: two values per channel, one being an error.
  ASSERT_GT(e.count(), 1);
  Outcome outcome(fresh, Order::kForward);
  SimulatedCall& trained = outcome.trained;
  SimulatedCall& evaluated = outcome.evaluated;
  EXPECT_EQ(trained.counter, 5);
  EXPECT_EQ(evaluated.counter, 5);

  const double n = static_cast<double>(e.count());
  const bool half = size_of(dtype) == 2;
  const bool wide = dtype == DType::kFloat64;
  const Doubles x = fresh.x.values();
  const Reference expected(e, x, fresh.eps);
  for (int64_t c = 0; c < e.channels; ++c) {
    ASSERT_NEAR(trained.save_mean[c], expected.mean[c], wide ? 1e-12 : 1e-6) << "channel " << c;
    ASSERT_NEAR(trained.save_invstd[c] / expected.invstd[c], 1, wide ? 1e-11 : 1e-6);
    ASSERT_NEAR(trained.running_mean[c], 0.8 * fresh.running_mean[c] + 0.2 * expected.mean[c],
                1e-6);
    ASSERT_NEAR(trained.running_var[c],
                0.8 * fresh.running_var[c] + 0.2 * expected.variance[c] * n / (n - 1),
                2e-6 * (1 + expected.variance[c]));
  }
  trained.expect_near(trained.y, fresh.normalized(trained.save_mean, trained.save_invstd), 8, "y");
  const double largest = *std::max_element(expected.invstd.begin(), expected.invstd.end());
  const auto expect_gradients = [&](SimulatedCall& call, bool training) {
    const ReferenceGradient gradient(e, call.dy.values(), x, call.w.values(), call.save_mean,
                                     call.save_invstd, training);
    call.expect_near(call.dx, gradient.input, 16 * (1 + largest), "dx");
    call.expect_near(call.dw, gradient.weight, (1 + n) * (half ? 8 : 2), "dw");
    call.expect_near(call.db, gradient.bias, (1 + n) * (half ? 8 : 2), "db");
  };
  expect_gradients(trained, true);
  Doubles mean(e.channels), invstd(e.channels);
  for (int64_t c = 0; c < e.channels; ++c) {
    ASSERT_EQ(evaluated.save_mean[c], trained.running_mean[c]);
    ASSERT_DOUBLE_EQ(evaluated.save_invstd[c], 1 / std::sqrt(trained.running_var[c] + fresh.eps));
  }
  evaluated.expect_near(evaluated.y, fresh.normalized(evaluated.save_mean, evaluated.save_invstd),
                        16, "evaluation y");
  expect_gradients(evaluated, false);

  for (const Order order : {Order::kBackward, Order::kShuffled}) {
    const Outcome again(fresh, order);
    EXPECT_TRUE(again.trained.same_bits(trained)) << "it matters which thread is first";
    EXPECT_TRUE(again.evaluated.same_bits(evaluated)) << "it matters which thread is first";
  }
}

inline void check_simulated(const Extent& e, DType dtype, const cuda::DeviceLimits& device,
                            cuda::KernelChoice choice = cuda::KernelChoice::kSplit) {
  SimulatedCall fresh(e, dtype, normal(e.numel(), 3, 2, 1));
  fresh.device = device;
  fresh.choice = choice;
  check_simulated(fresh);
}

}  // namespace torchbn::test
