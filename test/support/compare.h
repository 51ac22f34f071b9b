#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include "support/reference.h"

namespace torchbn::test {

// Whether |actual - expected| <= tolerance in every element; tells the worst one and its index.
// Equal infinities are near, so are NaNs. `tolerance` has expected's shape or broadcasts to it.
testing::AssertionResult is_near(const at::Tensor& actual, const at::Tensor& expected,
                                 const at::Tensor& tolerance);
testing::AssertionResult is_near(const at::Tensor& actual, const at::Tensor& expected,
                                 double tolerance);

// Whether both have the same dtype, shape and bits: 0 is not -0, NaN may be itself.
testing::AssertionResult is_identical(const at::Tensor& actual, const at::Tensor& expected);

// Whether all strides that matter are equal.
testing::AssertionResult lies_as(const at::Tensor& actual, const at::Tensor& expected);

// Tolerances follow from how the library computes. Notation, per channel of n values:
//
//   u     rounding unit of the arithmetic on elements: 2^-24, for float64 inputs 2^-53
//   g     (n + 4) * 2^-53, the worst that n additions in double can do
//   f     k * 2^-24 where k values at a time are summed in float, about a centre near them, before
//         they are added in double: up to 8 on a GPU, up to 32 of a half type on the CPU
//   d     |first value - mean| / std, the distance of the pivot of shifted sums
//   r     |mean| / std
struct Tolerances {
  // `input` may also be a sample of the `count` values that each channel has in truth.
  Tolerances(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
             const Forward& forward, bool training, std::optional<int64_t> count = std::nullopt);

  // Batch statistics: (g (1 + d) + f) std + 2^-53 |mean|, and (g (1 + d^2) + f) var.
  at::Tensor mean;  // [C]
  at::Tensor var;   // [C]

  // y = (x - mean_hi) * a + b': x - mean_hi, a, the product and the sum are rounded: 4 u |w xhat|.
  // b' is rounded and takes part in the sum; it holds the bias and less than u r |w| of mean_lo:
  // 2 u (|bias| + u r |w|). The statistics' errors come on top, and the rounding to a half type.
  at::Tensor output;  // [N, C, ...]

  // The same for dx = A dy + (B (x - mean_hi) + C): at most 5 roundings on each term's way.
  at::Tensor grad_input(const at::Tensor& grad_output, const Gradients& expected) const;
  // Sums of n products, rounded to `dtype`.
  at::Tensor grad_weight(const at::Tensor& grad_output, const Gradients& expected,
                         at::ScalarType dtype) const;
  at::Tensor grad_bias(const at::Tensor& grad_output, const Gradients& expected,
                       at::ScalarType dtype) const;

 private:
  // Absolute values added up over a channel.
  at::Tensor total(const at::Tensor& values) const;
  at::Tensor sum_error_of_grad_weight(const at::Tensor& grad_output) const;
  at::Tensor sum_error_of_grad_bias(const at::Tensor& grad_output) const;

  bool training_;
  at::ScalarType dtype_;
  int64_t count_;
  double unit_;
  double sum_error_;         // g
  double float_error_;       // f
  at::Tensor xhat_;          // [N, C, ...]
  at::Tensor scale_;         // [C], |weight| * invstd
  at::Tensor mean_error_;    // [C], of the mean, in units of std
  at::Tensor invstd_error_;  // [C], relative
  at::Tensor ratio_;         // [C], r
};

// Half the distance between neighbouring numbers of `dtype` at each value: what rounding costs.
at::Tensor half_ulp(const at::Tensor& values, at::ScalarType dtype);

// Rounding unit, half the distance from 1 to the next number.
double unit_of(at::ScalarType dtype);

}  // namespace torchbn::test
