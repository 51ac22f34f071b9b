#include "support/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include <ATen/OpMathType.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

namespace torchbn::test {

namespace {

std::string index_text(int64_t flat, at::IntArrayRef shape) {
  std::string text = "]";
  for (auto size = shape.rbegin(); size != shape.rend(); ++size) {
    text = (size + 1 == shape.rend() ? "[" : ", ") + std::to_string(flat % *size) + text;
    flat /= *size;
  }
  return shape.empty() ? "[]" : text;
}

}  // namespace

testing::AssertionResult is_near(const at::Tensor& actual, const at::Tensor& expected,
                                 const at::Tensor& tolerance) {
  if (!actual.defined() || !expected.defined()) {
    return testing::AssertionFailure()
           << (actual.defined() ? "expected" : "actual") << " is undefined";
  }
  if (actual.sizes() != expected.sizes()) {
    return testing::AssertionFailure()
           << "shape " << actual.sizes() << " where " << expected.sizes() << " was expected";
  }
  if (expected.numel() == 0) return testing::AssertionSuccess();
  const at::Tensor a = exact(actual);
  const at::Tensor e = exact(expected);
  const at::Tensor same = (a == e).logical_or(a.isnan().logical_and(e.isnan()));
  const at::Tensor error = at::where(same, at::zeros_like(e), (a - e).abs());
  const at::Tensor limit = exact(tolerance).expand(e.sizes());
  // Written so that NaN is not near.
  const at::Tensor excess = at::where(error <= limit, error / (limit + 1e-300),
                                      (error / (limit + 1e-300)).nan_to_num(INFINITY, INFINITY))
                                .reshape(-1);
  const int64_t worst = excess.argmax().item<int64_t>();
  const double ratio = excess[worst].item<double>();
  if (ratio <= 1) return testing::AssertionSuccess();
  const auto at_worst = [&](const at::Tensor& t) { return t.reshape(-1)[worst].item<double>(); };
  return testing::AssertionFailure()
         << "worst at " << index_text(worst, expected.sizes()) << " of " << expected.sizes() << ": "
         << at_worst(a) << " where " << at_worst(e) << " was expected, off by " << at_worst(error)
         << ", " << ratio << " times the tolerance of " << at_worst(limit) << "; "
         << excess.gt(1).sum().item<int64_t>() << " of " << expected.numel() << " elements are off";
}

testing::AssertionResult is_near(const at::Tensor& actual, const at::Tensor& expected,
                                 double tolerance) {
  return is_near(actual, expected, at::full({}, tolerance, at::kDouble));
}

testing::AssertionResult is_identical(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.defined() != expected.defined())
    return testing::AssertionFailure() << "only one of the tensors is defined";
  if (!actual.defined()) return testing::AssertionSuccess();
  if (actual.scalar_type() != expected.scalar_type() || actual.sizes() != expected.sizes()) {
    return testing::AssertionFailure()
           << actual.scalar_type() << actual.sizes() << " where " << expected.scalar_type()
           << expected.sizes() << " was expected";
  }
  const at::Tensor a = actual.detach().cpu().contiguous();
  const at::Tensor e = expected.detach().cpu().contiguous();
  if (std::memcmp(a.const_data_ptr(), e.const_data_ptr(), a.nbytes()) == 0)
    return testing::AssertionSuccess();
  const auto numerically = is_near(actual, expected, 0);
  if (!numerically) return testing::AssertionFailure() << numerically.message();
  return testing::AssertionFailure() << "the numbers are equal, but not their bits";
}

testing::AssertionResult lies_as(const at::Tensor& actual, const at::Tensor& expected) {
  for (int64_t d = 0; d < expected.dim(); ++d) {
    if (expected.size(d) > 1 && actual.stride(d) != expected.stride(d)) {
      return testing::AssertionFailure()
             << "strides " << actual.strides() << " where " << expected.strides()
             << " were expected for shape " << expected.sizes();
    }
  }
  return testing::AssertionSuccess();
}

double unit_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return 0x1p-53;
    case at::kBFloat16:
      return 0x1p-8;
    case at::kHalf:
      return 0x1p-11;
    default:
      return 0x1p-24;
  }
}

at::Tensor half_ulp(const at::Tensor& values, at::ScalarType dtype) {
  const double smallest_normal = dtype == at::kHalf ? 0x1p-14 : 0x1p-126;
  at::Tensor result = exact(values).abs().contiguous();
  double* const data = result.mutable_data_ptr<double>();
  for (int64_t i = 0; i < result.numel(); ++i) {
    const double power_of_two =
        std::isfinite(data[i]) ? std::exp2(std::ilogb(std::max(data[i], smallest_normal))) : 0;
    data[i] = unit_of(dtype) * power_of_two;
  }
  return result;
}

Tolerances::Tolerances(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                       const Forward& forward, bool training, std::optional<int64_t> count)
    : training_(training), dtype_(input.scalar_type()), count_(count.value_or(count_of(input))) {
  const at::Tensor x = exact(input);
  unit_ = unit_of(at::toOpMathType(dtype_));
  sum_error_ = static_cast<double>(count_ + 4) * 0x1p-53;
  const bool half = at::toOpMathType(dtype_) != dtype_;
  const int values_in_float = dtype_ == at::kDouble ? 0 : input.is_cuda() ? 8 : half ? 32 : 0;
  float_error_ = values_in_float * 0x1p-24;

  const at::Tensor std = forward.var.sqrt();
  const at::Tensor safe_std = at::where(std == 0, at::ones_like(std), std);
  const at::Tensor first = x.transpose(0, 1).reshape({x.size(1), -1}).select(1, 0);
  const at::Tensor pivot = (first - forward.mean).abs() / safe_std;
  ratio_ = forward.mean.abs() * forward.invstd;
  mean_error_ = sum_error_ * (1 + pivot) + float_error_ + 0x1p-53 * forward.mean.abs() / safe_std;
  const at::Tensor var_error = sum_error_ * (1 + pivot * pivot) + float_error_;
  mean = mean_error_ * std;
  var = var_error * forward.var;
  // Running statistics are taken as they are.
  if (!training) mean_error_ = at::zeros_like(mean_error_);
  invstd_error_ = (training ? var_error / 2 : at::zeros_like(var_error)) + 0x1p-51;

  const at::Tensor w = weight.defined() ? exact(weight).abs() : at::ones_like(forward.mean);
  const at::Tensor b = bias.defined() ? exact(bias).abs() : at::zeros_like(forward.mean);
  scale_ = w * forward.invstd;
  xhat_ = (x - per_channel(forward.mean, x)) * per_channel(forward.invstd, x);
  const at::Tensor w_xhat = xhat_.abs() * per_channel(w, x);
  output = w_xhat * (4 * unit_ + per_channel(invstd_error_, x)) +
           per_channel(2 * unit_ * (b + unit_ * ratio_ * w) + mean_error_ * w, x);
  if (half) output = output + half_ulp(forward.output, dtype_);
}

at::Tensor Tolerances::total(const at::Tensor& values) const {
  const double sampled = static_cast<double>(count_of(values));
  return sum_per_channel(values.abs()) * (static_cast<double>(count_) / sampled);
}

at::Tensor Tolerances::sum_error_of_grad_bias(const at::Tensor& grad_output) const {
  return (sum_error_ + float_error_) * total(exact(grad_output));
}

at::Tensor Tolerances::sum_error_of_grad_weight(const at::Tensor& grad_output) const {
  const at::Tensor dy = exact(grad_output);
  // An error of the mean shifts every xhat.
  return (sum_error_ + float_error_) * total(dy * xhat_) +
         (mean_error_ + 0x1p-53 * ratio_) * total(dy);
}

at::Tensor Tolerances::grad_weight(const at::Tensor& grad_output, const Gradients& expected,
                                   at::ScalarType dtype) const {
  // A gradient that is rounded to a half type may have been rounded to float32 before.
  return sum_error_of_grad_weight(grad_output) + invstd_error_ * expected.weight.abs() +
         half_ulp(expected.weight, dtype) + unit_ * expected.weight.abs();
}

at::Tensor Tolerances::grad_bias(const at::Tensor& grad_output, const Gradients& expected,
                                 at::ScalarType dtype) const {
  return sum_error_of_grad_bias(grad_output) + half_ulp(expected.bias, dtype) +
         unit_ * expected.bias.abs();
}

at::Tensor Tolerances::grad_input(const at::Tensor& grad_output, const Gradients& expected) const {
  const at::Tensor dy = exact(grad_output);
  at::Tensor terms = dy.abs();
  at::Tensor sums = at::zeros_like(dy);
  if (training_) {
    const double n = static_cast<double>(count_);
    terms = terms + per_channel(expected.bias.abs() / n, dy) +
            (xhat_.abs() + per_channel(unit_ * ratio_, dy)) *
                per_channel(expected.weight.abs() / n, dy);
    sums = per_channel(sum_error_of_grad_bias(grad_output) / n, dy) +
           xhat_.abs() * per_channel(sum_error_of_grad_weight(grad_output) / n, dy) +
           per_channel(mean_error_ * expected.weight.abs() / n, dy);
  }
  const at::Tensor error =
      per_channel(scale_, dy) * (terms * (5 * unit_ + 3 * per_channel(invstd_error_, dy)) + sums);
  return at::toOpMathType(dtype_) == dtype_ ? error : error + half_ulp(expected.input, dtype_);
}

}  // namespace torchbn::test
