// The CUDA kernels as they are, all of csrc/cuda's .cu files, on a simulated device: launches,
// barriers, exchanges between lanes, workspace. See simulated/device.h.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <vector>

#include "cpu/kernel_call.h"
#include "cuda/kernels.h"
#include "cuda/simulated/device.h"

namespace torchbn::test {
namespace {

using simulated::Order;

// One multiprocessor makes few splits and long walks; a small grid makes blocks take several units.
constexpr cuda::DeviceLimits kDevices[] = {{1}, {3, 5}};

struct SimulatedCall : Call {
  using Call::Call;
  cuda::DeviceLimits device;

  template <typename Problem>
  void run(cudaError_t (*kernels)(const Problem&, const cuda::Launch&), const Problem& problem) {
    constexpr size_t kGuard = 64;
    cuda::Launch launch;
    launch.policy = cuda::choose_policy(problem, device);
    // What is read before it was written is NaN, and what is written beside it is noticed.
    std::vector<unsigned char> memory(launch.policy.workspace_bytes + 2 * kGuard, 0xff);
    launch.workspace = memory.data() + kGuard;
    ASSERT_EQ(kernels(problem, launch), cudaSuccess);
    const auto untouched = [](unsigned char byte) { return byte == 0xff; };
    ASSERT_TRUE(std::all_of(memory.begin(), memory.begin() + kGuard, untouched));
    ASSERT_TRUE(std::all_of(memory.end() - kGuard, memory.end(), untouched));
  }

  void train() { run(cuda::train, train_problem()); }
  void inference() { run(cuda::inference, inference_problem()); }
  void backward(bool training, bool input = true, bool weight = true, bool bias = true) {
    run(cuda::backward, backward_problem(training, input, weight, bias));
  }

  bool same_bits(const SimulatedCall& other) const {
    return y.same_bits(other.y) && dx.same_bits(other.dx) && dw.same_bits(other.dw) &&
           db.same_bits(other.db) && running_mean.same_bits(other.running_mean) &&
           running_var.same_bits(other.running_var) && save_mean == other.save_mean &&
           save_invstd == other.save_invstd && counter == other.counter;
  }
};

// Forward and backward, of training and of evaluation; `evaluated` is the state after both.
struct Outcome {
  SimulatedCall trained, evaluated;

  explicit Outcome(const SimulatedCall& fresh, Order order) : trained(fresh), evaluated(fresh) {
    simulated::set_order(order);
    trained.train();
    trained.backward(true);
    evaluated = trained;
    evaluated.inference();
    evaluated.backward(false);
  }
};

void check(const Extent& e, DType dtype, int64_t offset, const cuda::DeviceLimits& device) {
  SCOPED_TRACE(testing::Message() << describe(e, dtype) << " misaligned by " << offset << ", grid "
                                  << device.max_grid);
  SimulatedCall fresh(e, dtype, normal(e.numel(), 3, 2, 1), offset);
  fresh.device = device;
  // Sums of many values leave float16.
  if (size_of(dtype) == 2) fresh.dw = fresh.db = Buffer(DType::kFloat32, e.channels);
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

  const Outcome again(fresh, device.max_grid < 10 ? Order::kShuffled : Order::kBackward);
  EXPECT_TRUE(again.trained.same_bits(trained)) << "it matters which thread is first";
  EXPECT_TRUE(again.evaluated.same_bits(evaluated)) << "it matters which thread is first";
}

class SimulatedKernels : public KernelTest {
 protected:
  // Shapes take turns being misaligned.
  void check_all(const std::vector<std::array<int64_t, 3>>& shapes) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      const auto& [batch, channels, spatial] = shapes[i];
      for (const cuda::DeviceLimits& device : kDevices)
        check(extent(batch, channels, spatial), dtype(), static_cast<int64_t>(i % 3), device);
    }
  }
};
INSTANTIATE_TEST_SUITE_P(All, SimulatedKernels, every_layout_and_dtype(), name_of_kernel_test);

TEST_P(SimulatedKernels, FewValues) {
  check_all({{2, 1, 1}, {1, 1, 2}, {2, 3, 1}, {1, 5, 3}, {3, 2, 4}, {2, 9, 8}});
}

// One value less and more than full vectors, than a block's threads, than a round of vectors.
TEST_P(SimulatedKernels, Tails) {
  check_all({{1, 1, 1023}, {1, 1, 1025}, {1, 2, 257}, {5, 1, 31}, {3, 3, 33}, {2, 5, 129}});
}

// Several parts per channel, merged by 2 to 32 lanes; blocks that take several of them.
TEST_P(SimulatedKernels, ManyParts) {
  check_all({{1, 1, 40000}, {3, 2, 4099}});
}

// More parts than the lanes that merge them.
TEST_P(SimulatedKernels, MorePartsThanLanes) {
  const int64_t rows = 1200001 / static_cast<int64_t>(size_of(dtype()));
  const Extent e = extent(1, 1, layout() == Layout::kChannelsFirst ? 50001 : rows);
  const cuda::DeviceLimits device{16, 40};
  ASSERT_GT(cuda::choose_policy(e, dtype(), 0, true, device).parts, 32);
  check(e, dtype(), 0, device);
}

// Several tiles of channels, the last of them not full, and more channels than finishing threads.
TEST_P(SimulatedKernels, ManyChannels) {
  check_all({{4, 65, 9}, {2, 300, 4}, {900, 129, 1}});
}

TEST_P(SimulatedKernels, EverySubsetOfGradients) {
  for (const bool training : {true, false}) {
    const Extent e = extent(4, 6, 50);
    SimulatedCall all(e, dtype(), normal(e.numel(), 3, 2, 1));
    all.device = kDevices[1];
    all.train();
    const SimulatedCall before = all;
    all.backward(training);
    for (int subset = 0; subset < 8; ++subset) {
      SimulatedCall some = before;
      some.backward(training, subset & 1, subset & 2, subset & 4);
      EXPECT_TRUE(some.dx.same_bits(subset & 1 ? all.dx : before.dx)) << subset;
      EXPECT_TRUE(some.dw.same_bits(subset & 2 ? all.dw : before.dw)) << subset;
      EXPECT_TRUE(some.db.same_bits(subset & 4 ? all.db : before.db)) << subset;
    }
  }
}

// The simulation itself notices threads that wait for others in vain.
TEST(SimulatedDevice, EndsWhereThreadsWaitForEver) {
  simulated::set_order(Order::kForward);
  EXPECT_THROW(simulated::launch(1, 64, 0, nullptr,
                                 [] {
                                   if (threadIdx.x != 5) __syncthreads();
                                 }),
               std::logic_error);
  EXPECT_THROW(simulated::launch(1, 64, 0, nullptr,
                                 [] {
                                   if (threadIdx.x != 40) __shfl_down_sync(0xffffffffu, 1, 1, 32);
                                 }),
               std::logic_error);
}

TEST(SimulatedDevice, LanesGetWhatTheLaneFurtherOnHas) {
  std::array<int, 64> got{};
  for (const Order order : {Order::kForward, Order::kBackward, Order::kShuffled}) {
    simulated::set_order(order);
    simulated::launch(1, 64, 0, nullptr, [&] {
      const int thread = static_cast<int>(threadIdx.x);
      got[threadIdx.x] = __shfl_down_sync(0xffffffffu, thread, 4, 8);
    });
    for (int i = 0; i < 64; ++i)
      ASSERT_EQ(got[static_cast<size_t>(i)], i % 8 < 4 ? i + 4 : i) << "thread " << i;
  }
}

}  // namespace
}  // namespace torchbn::test
