#include "cpu/kernels.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <tuple>

#include "cpu/reference.h"
#include "cpu/vec/level.h"

namespace torchbn::test {
namespace {

using cpu::vec::Level;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};
constexpr Layout kLayouts[] = {Layout::kChannelsFirst, Layout::kChannelsLast};

std::string describe(const Extent& e, DType dtype) {
  static const char* const names[] = {"fp32", "fp64", "bf16", "fp16"};
  return std::string(names[static_cast<int>(dtype)]) +
         (e.layout == Layout::kChannelsFirst ? " first" : " last") + " N" +
         std::to_string(e.batch) + " C" + std::to_string(e.channels) + " S" +
         std::to_string(e.spatial);
}

// One input with parameters and room for every result.
struct Call {
  Extent extent;
  DType dtype;
  double eps = 1e-5;
  Buffer x, dy, w, b, y, dx, dw, db, running_mean, running_var;
  Doubles save_mean, save_invstd;
  int64_t counter = 4;

  Call(const Extent& e, DType t, const Doubles& values, int64_t offset = 0)
      : extent(e),
        dtype(t),
        x(t, values, offset),
        dy(t, normal(e.numel(), 0.1, 1, 2), offset),
        w(t, normal(e.channels, 1, 0.3, 3)),
        b(t, normal(e.channels, 0, 1, 4)),
        y(t, e.numel(), offset),
        dx(t, e.numel(), offset),
        dw(t, e.channels),
        db(t, e.channels),
        running_mean(DType::kFloat32, normal(e.channels, 0.5, 1, 5)),
        running_var(DType::kFloat32, Doubles(e.channels, 2.0)),
        save_mean(e.channels),
        save_invstd(e.channels) {}

  void train() {
    TrainProblem p;
    p.extent = extent;
    p.dtype = dtype;
    p.input = x.data();
    p.output = y.data();
    p.weight = w.view();
    p.bias = b.view();
    p.running = {running_mean.vector(), running_var.vector(), &counter, 0.1, true};
    p.eps = eps;
    p.save_mean = save_mean.data();
    p.save_invstd = save_invstd.data();
    cpu::train(p);
  }

  void inference() {
    cpu::inference({extent, dtype, x.data(), y.data(), w.view(), b.view(), running_mean.view(),
                    running_var.view(), eps, save_mean.data(), save_invstd.data()});
  }

  void backward(bool training, bool input = true, bool weight = true, bool bias = true) {
    BackwardProblem p;
    p.extent = extent;
    p.dtype = dtype;
    p.training = training;
    p.grad_output = dy.data();
    if (training || weight) p.input = x.data();
    p.weight = w.view();
    p.mean = save_mean.data();
    p.invstd = save_invstd.data();
    if (input) p.grad_input = dx.data();
    if (weight) p.grad_weight = dw.vector();
    if (bias) p.grad_bias = db.vector();
    cpu::backward(p);
  }

  // Twice the rounding to dtype (sums that cancel to near zero keep the error of their terms).
  void expect_near(Buffer& actual, const Doubles& expected, double scale, const char* name) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const double bound = 8 * compute_ulp(dtype) * (scale + std::abs(expected[i])) +
                           1.02 * half_ulp(dtype) * std::abs(expected[i]) +
                           (dtype == DType::kFloat16 ? 0x1p-25 : 0);
      ASSERT_NEAR(actual[i], expected[i], bound)
          << name << "[" << i << "] " << describe(extent, dtype);
    }
  }

  Doubles normalized(const Doubles& mean, const Doubles& invstd) {
    Doubles result(extent.numel());
    for (int64_t i = 0; i < extent.numel(); ++i) {
      const int64_t c = channel_of(extent, i);
      result[i] = (x[i] - mean[c]) * invstd[c] * w[c] + b[c];
    }
    return result;
  }
};

void check_against_reference(const Extent& e, DType dtype, int64_t offset = 0) {
  Call call(e, dtype, normal(e.numel(), 3, 2, 1), offset);
  const Doubles x = call.x.values();
  const Doubles old_mean = call.running_mean.values(), old_var = call.running_var.values();
  const Reference expected(e, x, call.eps);

  call.train();
  const double n = static_cast<double>(e.count());
  // Half types are summed in float, up to 32 values to a lane, before the sums go on in double.
  // Each step rounds by 2^-24 at most: that bounds the mean, in standard deviations. The variance
  // keeps the contract's 1e-6. The others have double's accuracy.
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

class Kernels : public testing::TestWithParam<std::tuple<Layout, DType>> {
 protected:
  Layout layout() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  Extent extent(int64_t batch, int64_t channels, int64_t spatial) const {
    return {batch, channels, spatial, layout()};
  }
};

std::string name_of(const testing::TestParamInfo<std::tuple<Layout, DType>>& info) {
  static const char* const names[] = {"Fp32", "Fp64", "Bf16", "Fp16"};
  const auto [layout, dtype] = info.param;
  return std::string(names[static_cast<int>(dtype)]) +
         (layout == Layout::kChannelsFirst ? "ChannelsFirst" : "ChannelsLast");
}

INSTANTIATE_TEST_SUITE_P(All, Kernels,
                         testing::Combine(testing::ValuesIn(kLayouts), testing::ValuesIn(kDTypes)),
                         name_of);

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

struct Results {
  Call training, evaluation;
  bool operator==(const Results& other) const {
    return same(training, other.training) && same(evaluation, other.evaluation);
  }
  static bool same(const Call& a, const Call& b) {
    return a.y.same_bits(b.y) && a.dx.same_bits(b.dx) && a.dw.same_bits(b.dw) &&
           a.db.same_bits(b.db) && a.running_mean.same_bits(b.running_mean) &&
           a.running_var.same_bits(b.running_var) && a.save_mean == b.save_mean &&
           a.save_invstd == b.save_invstd;
  }
};

Results run(const Extent& e, DType dtype) {
  const Doubles x = normal(e.numel(), 3, 2, 1);
  Results results{Call(e, dtype, x), Call(e, dtype, x)};
  results.training.train();
  results.training.backward(true);
  results.evaluation.inference();
  results.evaluation.backward(false);
  return results;
}

std::vector<Extent> shared_out(Layout layout) {
  return {{2, 3, 20011, layout}, {40, 70, 49, layout}, {2000, 7, 5, layout},
          {3, 2061, 9, layout},  {5, 40, 777, layout}, {300, 67, 15, layout}};
}

TEST_P(Kernels, SameBitsForEveryThreadCount) {
  const int threads = at::get_num_threads();
  for (const Extent& e : shared_out(layout())) {
    at::set_num_threads(1);
    const Results expected = run(e, dtype());
    for (int n = 2; n <= 4; ++n) {
      at::set_num_threads(n);
      EXPECT_TRUE(run(e, dtype()) == expected) << describe(e, dtype()) << " threads " << n;
    }
  }
  at::set_num_threads(threads);
}

TEST_P(Kernels, SameBitsForEveryInstructionSet) {
  const Level highest = cpu::vec::highest_level();
  for (const Extent& e : shared_out(layout())) {
    cpu::vec::force_level(Level::kBaseline);
    const Results expected = run(e, dtype());
    for (Level level : {Level::kAvx2, Level::kAvx512}) {
      if (level > highest) continue;
      cpu::vec::force_level(level);
      EXPECT_TRUE(run(e, dtype()) == expected)
          << describe(e, dtype()) << " level " << static_cast<int>(level);
    }
  }
  cpu::vec::force_level(highest);
}

TEST_P(Kernels, EverySubsetOfGradients) {
  for (int64_t channels : {3, 40}) {
    const Extent e = extent(4, channels, 21);
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

// Every bit pattern of a half type through the vector loops of every level, against core's scalar
// conversions and formula.
template <typename T>
void check_conversions(Level level) {
  cpu::vec::force_level(level);
  std::vector<T> x(65536), y(65536);
  for (int i = 0; i < 65536; ++i) x[i].bits = static_cast<uint16_t>(i);
  for (const Affine<float>& map :
       {Affine<float>{0, 1, 0}, {0.3f, 1.7f, 0.01f}, {0, 1e-6f, 0}, {0, 0x1.003p-3f, 0}}) {
    cpu::vec::table().get<T>().affine(x.data(), y.data(), {1, 65536, 0}, &map, false);
    for (int i = 0; i < 65536; ++i) {
      const float value = map(widen(x[i]));
      const T expected = narrow<T>(value);
      if (std::isnan(value))
        ASSERT_TRUE(std::isnan(widen(y[i]))) << i;
      else
        ASSERT_EQ(y[i].bits, expected.bits) << i;
    }
  }
  cpu::vec::force_level(cpu::vec::highest_level());
}

TEST(Conversions, EveryHalfOnEveryLevel) {
  for (Level level : {Level::kBaseline, Level::kAvx2, Level::kAvx512}) {
    if (level > cpu::vec::highest_level()) continue;
    check_conversions<BFloat16>(level);
    check_conversions<Float16>(level);
  }
}

// Stores past the caches give the same bits at every length and alignment.
template <typename T>
void check_streaming(Level level, DType dtype) {
  cpu::vec::force_level(level);
  const auto& primitives = cpu::vec::table().get<T>();
  using Value = Compute<T>;
  constexpr int64_t kLength = 1100;
  constexpr int64_t kRows = 3;
  Buffer x(dtype, normal(kRows * kLength, 3, 2, 1)), dy(dtype, normal(kRows * kLength, 0, 1, 2));
  const std::vector<Value> coefficients(kLength, static_cast<Value>(1.25));
  const Value* c = coefficients.data();
  for (int64_t offset = 0; offset < 33; offset += 3) {
    for (int64_t length : {int64_t{64}, int64_t{1023}, int64_t{1041}, kLength - 33}) {
      Buffer expected(dtype, kRows * kLength), actual(dtype, kRows * kLength);
      const auto x_at = static_cast<const T*>(x.data());
      const auto dy_at = static_cast<const T*>(dy.data());
      const auto expected_at = static_cast<T*>(expected.data()) + offset;
      const auto actual_at = static_cast<T*>(actual.data()) + offset;
      const cpu::vec::Strip strip{kRows, length, kLength};
      primitives.column_affine(x_at, expected_at, strip, {c, c, c}, false);
      primitives.column_affine(x_at, actual_at, strip, {c, c, c}, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
      const Affine<Value> affine{0.5, 2, 1};
      const GradientCoefficients<Value> gradient{0.5, 2, 1, 3};
      primitives.affine(x_at, expected_at, strip, &affine, false);
      primitives.affine(x_at, actual_at, strip, &affine, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
      primitives.column_gradient(dy_at, x_at, expected_at, strip, {c, c, c, c}, false);
      primitives.column_gradient(dy_at, x_at, actual_at, strip, {c, c, c, c}, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
      primitives.gradient(dy_at, x_at, expected_at, strip, &gradient, false);
      primitives.gradient(dy_at, x_at, actual_at, strip, &gradient, true);
      ASSERT_TRUE(actual.same_bits(expected)) << length << " at " << offset;
    }
  }
  cpu::vec::force_level(cpu::vec::highest_level());
}

TEST(Streaming, SameBitsAsOrdinaryStores) {
  for (Level level : {Level::kBaseline, Level::kAvx2, Level::kAvx512}) {
    if (level > cpu::vec::highest_level()) continue;
    check_streaming<float>(level, DType::kFloat32);
    check_streaming<double>(level, DType::kFloat64);
    check_streaming<BFloat16>(level, DType::kBFloat16);
    check_streaming<Float16>(level, DType::kFloat16);
  }
}

#if defined(__FLT16_MAX__)
TEST(Conversions, ScalarFloat16AgreesWithTheCompiler) {
  for (uint32_t i = 0; i < 65536; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    _Float16 half;
    std::memcpy(&half, &bits, 2);
    const float expected = static_cast<float>(half);
    const float value = widen(Float16{bits});
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value));
      continue;
    }
    ASSERT_EQ(value, expected) << i;
    // The value, its neighbours, and the ties between it and the next half.
    for (uint32_t step : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
      const float near = detail::float_from_bits(detail::bits_from_float(value) + step);
      if (std::isnan(near)) continue;
      const _Float16 rounded = static_cast<_Float16>(near);
      uint16_t rounded_bits;
      std::memcpy(&rounded_bits, &rounded, 2);
      ASSERT_EQ(narrow<Float16>(near).bits, rounded_bits) << i << " + " << step;
    }
  }
}
#endif

}  // namespace
}  // namespace torchbn::test
