// The kernels' results: against a plain reference in double, and at special values.

#include "cpu/kernels.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "support/kernel_call.h"

namespace torchbn::test {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

void check_against_reference(const Extent& e, DType dtype, int64_t offset = 0) {
  Call call(e, dtype, normal(e.numel(), 3, 2, 1), offset);
  const Doubles x = call.x.values();
  const Doubles old_mean = call.running_mean.values(), old_var = call.running_var.values();
  const Reference expected(e, x, call.eps);

  call.train();
  const double n = static_cast<double>(e.count());
  // Half types are summed in float, in chains: fewer than 32 additions lie between a value and the
  // sums in double. Each rounds by 2^-24 at most: that bounds the mean, in standard deviations. The
  // variance keeps the contract's 1e-6. The others have double's accuracy.
  const bool half = size_of(dtype) == 2;
  const double mean_bound = half ? 0x1p-19 * std::sqrt(expected.variance[0]) : 1e-13 * 8;
  const double invstd_bound = half ? 5e-7 : 1e-11;
  EXPECT_EQ(call.counter, 5);
  for (int64_t c = 0; c < e.channels; ++c) {
    ASSERT_NEAR(call.save_mean[c], expected.mean[c], mean_bound) << describe(e, dtype);
    ASSERT_NEAR(call.save_invstd[c] / expected.invstd[c], 1, invstd_bound) << describe(e, dtype);
    ASSERT_NEAR(call.running_mean[c], 0.8 * old_mean[c] + 0.2 * expected.mean[c], 1e-6);
    ASSERT_NEAR(call.running_var[c], 0.8 * old_var[c] + 0.2 * expected.variance[c] * n / (n - 1),
                2e-6 * (1 + expected.variance[c]));
  }
  call.expect_near(call.y, call.normalized(expected.mean, expected.invstd), 8, "y");

  const ReferenceGradient gradient(e, call.dy.values(), x, call.w.values(), expected.mean,
                                   expected.invstd, true);
  call.backward(true);
  const double scale = 16 * (1 + expected.invstd[0]);
  call.expect_near(call.dx, gradient.input, scale, "training dx");
  call.expect_near(call.dw, gradient.weight, 1 + 1e-3 * n, "training dw");
  call.expect_near(call.db, gradient.bias, 1 + 1e-3 * n, "training db");

  call.inference();
  Doubles mean(e.channels), invstd(e.channels);
  for (int64_t c = 0; c < e.channels; ++c) {
    mean[c] = call.running_mean[c];
    invstd[c] = 1 / std::sqrt(call.running_var[c] + call.eps);
    ASSERT_EQ(call.save_mean[c], mean[c]);
    ASSERT_DOUBLE_EQ(call.save_invstd[c], invstd[c]);
  }
  call.expect_near(call.y, call.normalized(mean, invstd), 16, "evaluation y");
  const ReferenceGradient evaluation(e, call.dy.values(), x, call.w.values(), mean, invstd, false);
  call.backward(false);
  call.expect_near(call.dx, evaluation.input, 1, "evaluation dx");
  call.expect_near(call.dw, evaluation.weight, 1 + 1e-3 * n, "evaluation dw");
  call.expect_near(call.db, evaluation.bias, 1 + 1e-3 * n, "evaluation db");
}

class Kernels : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(All, Kernels, every_layout_and_dtype(), name_of_kernel_test);

TEST_P(Kernels, EverySpatialSizeRoundTheVectorWidth) {
  for (int64_t spatial = 1; spatial <= 67; ++spatial)
    check_against_reference(extent(3, 5, spatial), dtype());
}

TEST_P(Kernels, EveryChannelCountRoundTheVectorWidth) {
  for (int64_t channels = 1; channels <= 67; ++channels)
    check_against_reference(extent(2, channels, 3), dtype());
}

TEST_P(Kernels, Misaligned) {
  for (int64_t offset = 1; offset <= 5; ++offset) {
    check_against_reference(extent(3, 33, 49), dtype(), offset);
    check_against_reference(extent(2, 3, 100), dtype(), offset);
  }
}

TEST_P(Kernels, SharedOutAmongThreads) {
  check_against_reference(extent(2, 3, 20011), dtype());  // a plane of several pieces
  check_against_reference(extent(40, 70, 49), dtype());   // groups of channels
  check_against_reference(extent(2000, 45, 3), dtype());  // many rows
  check_against_reference(extent(1, 1, 40000), dtype());  // one channel
  check_against_reference(extent(4, 5003, 1), dtype());   // few rows, many channels
  check_against_reference(extent(2, 1030, 20), dtype());
}

TEST_P(Kernels, EverySubsetOfGradients) {
  for (int64_t channels : {3, 40}) {
    // The 40 channels have more rows than are summed before these are mapped.
    const Extent e = extent(9, channels, 21);
    for (bool training : {true, false}) {
      Call all(e, dtype(), normal(e.numel(), 3, 2, 1));
      all.train();
      Call some = all;
      all.backward(training);
      const Call untouched = some;
      for (int subset = 0; subset < 8; ++subset) {
        some.dx = untouched.dx;
        some.dw = untouched.dw;
        some.db = untouched.db;
        const bool input = subset & 1, weight = subset & 2, bias = subset & 4;
        some.backward(training, input, weight, bias);
        EXPECT_TRUE(some.dx.same_bits(input ? all.dx : untouched.dx)) << subset;
        EXPECT_TRUE(some.dw.same_bits(weight ? all.dw : untouched.dw)) << subset;
        EXPECT_TRUE(some.db.same_bits(bias ? all.db : untouched.db)) << subset;
      }
    }
  }
}

TEST_P(Kernels, LargeMeans) {
  const double mean_over_std = size_of(dtype()) == 2 ? 100 : 1e6;
  const Extent e = extent(4, 37, 1500);
  Call call(e, dtype(), normal(e.numel(), mean_over_std, 1, 1));
  call.eps = 0;
  const Reference expected(e, call.x.values(), 0);
  call.train();
  for (int64_t c = 0; c < e.channels; ++c) {
    const double variance = 1 / (call.save_invstd[c] * call.save_invstd[c]);
    ASSERT_NEAR(variance / expected.variance[c], 1, 1e-6);
  }
  call.expect_near(call.y, call.normalized(call.save_mean, call.save_invstd), 8, "y");
}

// Half types are summed in float, about the mean of a sample. Where outliers are in the sample,
// that lies far from the mean, and float's roundings, for like values all to one side, weigh more.
TEST_P(Kernels, OutliersAmongFewLikeValues) {
  const std::vector<std::pair<const char*, int64_t>> patterns{
      {"none", 1 << 20}, {"the first", 1 << 20}, {"one in 3", 3},  {"one in 4", 4},
      {"one in 8", 8},   {"one in 16", 16},      {"one in 31", 31}};
  for (int64_t spatial : {1, 16}) {
    for (int64_t batch : {9, 15, 16, 31, 48, 64, 65, 127}) {
      const Extent e = extent(batch, 64, spatial);
      for (size_t pattern = 0; pattern < patterns.size(); ++pattern) {
        const auto& [name, period] = patterns[pattern];
        std::mt19937 engine(static_cast<unsigned>(batch));
        std::uniform_int_distribution<int> step(-6, 6);
        const Doubles scale = normal(e.channels, 0, 0.02, 1), center = normal(e.channels, 0, 1, 2);
        const Doubles outlier = normal(e.channels, 0, 20, 3);
        Doubles x(e.numel());
        for (int64_t i = 0; i < e.numel(); ++i) {
          const int64_t c = channel_of(e, i);
          const int64_t image = i / (e.channels * spatial);
          x[i] =
              pattern > 0 && image % period == 0 ? outlier[c] : center[c] + step(engine) * scale[c];
        }
        Call call(e, dtype(), x);
        call.eps = 0;
        const Reference expected(e, call.x.values(), 0);
        call.train();
        for (int64_t c = 0; c < e.channels; ++c) {
          if (expected.variance[c] == 0) continue;
          const double variance = 1 / (call.save_invstd[c] * call.save_invstd[c]);
          ASSERT_NEAR(variance / expected.variance[c], 1, 1e-6)
              << describe(e, dtype()) << ", outliers: " << name;
        }
      }
    }
  }
}

TEST_P(Kernels, ConstantChannelGivesBias) {
  for (double eps : {1e-5, 0.0}) {
    const Extent e = extent(3, 35, 50);
    Call call(e, dtype(), Doubles(e.numel(), 0.1));
    call.eps = eps;
    call.train();
    for (int64_t i = 0; i < e.numel(); ++i)
      ASSERT_EQ(call.y[i], call.b[channel_of(e, i)]) << describe(e, dtype());
  }
}

TEST_P(Kernels, NaNAndInfinityStayInTheirChannel) {
  for (double bad : {kNaN, kInfinity, -kInfinity}) {
    for (int64_t position : {0, 30, 48}) {  // the pivot, a body, a tail
      const Extent e = extent(2, 35, 49);
      Doubles x = normal(e.numel(), 3, 2, 1);
      const int64_t channel = 33;
      x[layout() == Layout::kChannelsFirst ? channel * 49 + position : position * 35 + channel] =
          bad;
      Call call(e, dtype(), x);
      call.train();
      EXPECT_TRUE(std::isnan(call.save_invstd[channel]));
      EXPECT_TRUE(std::isnan(bad) ? std::isnan(call.save_mean[channel])
                                  : call.save_mean[channel] == bad);
      for (int64_t i = 0; i < e.numel(); ++i)
        ASSERT_EQ(std::isnan(call.y[i]), channel_of(e, i) == channel) << i;
      call.backward(true);
      for (int64_t i = 0; i < e.numel(); ++i)
        ASSERT_EQ(std::isnan(call.dx[i]), channel_of(e, i) == channel) << i;
    }
  }
}

TEST_P(Kernels, AbsentParametersAndCounterAlone) {
  const Extent e = extent(2, 5, 7);
  Call call(e, dtype(), normal(e.numel(), 3, 2, 1));
  const Reference expected(e, call.x.values(), call.eps);
  call.w = Buffer(dtype(), Doubles(e.channels, 1));
  call.b = Buffer(dtype(), Doubles(e.channels, 0));
  TrainProblem p;
  p.extent = e;
  p.dtype = dtype();
  p.input = call.x.data();
  p.output = call.y.data();
  p.running.num_batches_tracked = &call.counter;
  p.eps = call.eps;
  p.save_mean = call.save_mean.data();
  p.save_invstd = call.save_invstd.data();
  cpu::train(p);
  EXPECT_EQ(call.counter, 5);
  call.expect_near(call.y, call.normalized(expected.mean, expected.invstd), 8, "y");
}

}  // namespace
}  // namespace torchbn::test
