#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "cpu/kernels.h"
#include "support/kernel_reference.h"

// What the tests of the kernels share: calls without torch, and a fixture for every layout and
// dtype.
namespace torchbn::test {

inline constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                    DType::kFloat16};
inline constexpr Layout kLayouts[] = {Layout::kChannelsFirst, Layout::kChannelsLast};

inline std::string describe(const Extent& e, DType dtype) {
  static const char* const names[] = {"fp32", "fp64", "bf16", "fp16"};
  return std::string(names[static_cast<int>(dtype)]) + " " + describe(e);
}

// Sums of many values leave float16, and few digits of them would hide a difference.
inline DType sums_type(DType dtype) {
  return size_of(dtype) == 2 ? DType::kFloat32 : dtype;
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
        dw(sums_type(t), e.channels),
        db(sums_type(t), e.channels),
        running_mean(DType::kFloat32, normal(e.channels, 0.5, 1, 5)),
        running_var(DType::kFloat32, Doubles(e.channels, 2.0)),
        save_mean(e.channels),
        save_invstd(e.channels) {}

  TrainProblem train_problem() {
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
    return p;
  }

  InferenceProblem inference_problem() {
    return {extent,
            dtype,
            x.data(),
            y.data(),
            w.view(),
            b.view(),
            running_mean.view(),
            running_var.view(),
            eps,
            save_mean.data(),
            save_invstd.data()};
  }

  BackwardProblem backward_problem(bool training, bool input = true, bool weight = true,
                                   bool bias = true) {
    BackwardProblem p;
    p.extent = extent;
    p.dtype = dtype;
    p.training = training;
    p.grad_output = dy.data();
    p.weight = w.view();
    p.mean = save_mean.data();
    p.invstd = save_invstd.data();
    if (input) p.grad_input = dx.data();
    if (weight) p.grad_weight = dw.vector();
    if (bias) p.grad_bias = db.vector();
    if (p.reads_input()) p.input = x.data();
    return p;
  }

  void train() { cpu::train(train_problem()); }
  void inference() { cpu::inference(inference_problem()); }
  void backward(bool training, bool input = true, bool weight = true, bool bias = true) {
    cpu::backward(backward_problem(training, input, weight, bias));
  }

  // The rounding to dtype and some of the arithmetic before it (sums that cancel to near zero keep
  // the error of their terms).
  void expect_near(Buffer& actual, const Doubles& expected, double scale, const char* name) {
    for (size_t i = 0; i < expected.size(); ++i) {
      const double bound = 8 * compute_ulp(dtype) * (scale + std::abs(expected[i])) +
                           1.02 * half_ulp(dtype) * std::abs(expected[i]) +
                           (dtype == DType::kFloat16 ? 0x1p-25 : 0);
      ASSERT_NEAR(actual[i], expected[i], bound)
          << name << "[" << i << "] " << describe(extent, dtype);
    }
  }

  // Have all results the same bits?
  bool same_bits(const Call& other) const {
    return y.same_bits(other.y) && dx.same_bits(other.dx) && dw.same_bits(other.dw) &&
           db.same_bits(other.db) && running_mean.same_bits(other.running_mean) &&
           running_var.same_bits(other.running_var) && save_mean == other.save_mean &&
           save_invstd == other.save_invstd && counter == other.counter;
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

class KernelTest : public testing::TestWithParam<std::tuple<Layout, DType>> {
 protected:
  Layout layout() const { return std::get<0>(GetParam()); }
  DType dtype() const { return std::get<1>(GetParam()); }
  Extent extent(int64_t batch, int64_t channels, int64_t spatial) const {
    return extent_of(batch, channels, spatial, layout());
  }
};

inline std::string name_of_kernel_test(
    const testing::TestParamInfo<std::tuple<Layout, DType>>& info) {
  static const char* const names[] = {"Fp32", "Fp64", "Bf16", "Fp16"};
  const auto [layout, dtype] = info.param;
  return std::string(names[static_cast<int>(dtype)]) +
         (layout == Layout::kChannelsFirst ? "ChannelsFirst" : "ChannelsLast");
}

inline auto every_layout_and_dtype() {
  return testing::Combine(testing::ValuesIn(kLayouts), testing::ValuesIn(kDTypes));
}

}  // namespace torchbn::test
