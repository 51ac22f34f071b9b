#include "autograd/formulas.h"

#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include "optional_tensor.h"

namespace torchbn::formulas {

namespace {

at::Tensor to_double(const at::Tensor& tensor) {
  return tensor.to(at::kDouble);
}

// All axes but the channels'.
std::vector<int64_t> reduced_axes(const at::Tensor& data) {
  std::vector<int64_t> axes = {0};
  for (int64_t axis = 2; axis < data.dim(); ++axis) axes.push_back(axis);
  return axes;
}

// [C] -> [1, C, 1, ...]
at::Tensor per_channel(const at::Tensor& vector, const at::Tensor& data) {
  std::vector<int64_t> shape(data.dim(), 1);
  shape[1] = -1;
  return vector.reshape(shape);
}

at::Tensor sum_per_channel(const at::Tensor& data) {
  return at::sum(data, reduced_axes(data));
}
at::Tensor mean_per_channel(const at::Tensor& data) {
  return at::mean(data, reduced_axes(data));
}

// As inverse_std in core/statistics.h. The square root never sees the zero, whose infinite
// derivative would reach the other branch as NaN.
at::Tensor inverse_std(const at::Tensor& variance, double eps) {
  const at::Tensor shifted = variance + eps;
  const at::Tensor zero = shifted == 0;
  const at::Tensor safe = at::where(zero, at::ones_like(shifted), shifted);
  return at::where(zero, at::zeros_like(shifted), at::rsqrt(safe));
}

// The input itself. Its gradient is made by a where(), which lays it out as the condition, and so
// as the input.
at::Tensor keeping_layout(const at::Tensor& input) {
  return at::where(at::ones_like(input, at::kBool), input, input.detach());
}

// The first value of each channel, [1, C, 1, ...]: a pivot from which differences of a constant
// channel are exact zeros. As pivot_from in core/statistics.h, zero where it is infinite or NaN.
at::Tensor pivot_of(const at::Tensor& x) {
  at::Tensor first = x.detach();
  for (int64_t axis : reduced_axes(x)) first = first.narrow(axis, 0, 1);
  return at::where(at::isfinite(first), first, at::zeros_like(first));
}

// (x - mean) * invstd in float64, with the statistics.
Trained normalize(const at::Tensor& input, double eps) {
  const at::Tensor x = to_double(input);
  if (input.sym_numel() == 0) {
    // As the kernels: the mean of no values would be NaN.
    const at::Tensor zeros = sum_per_channel(x.detach());
    return {x, zeros, zeros, zeros};
  }
  const at::Tensor pivot = pivot_of(x);
  const at::Tensor shifted = x - pivot;
  const at::Tensor shifted_mean = mean_per_channel(shifted);
  const at::Tensor centered = shifted - per_channel(shifted_mean, shifted);
  const at::Tensor variance = mean_per_channel(centered * centered);
  const at::Tensor invstd = inverse_std(variance, eps);
  return {centered * per_channel(invstd, centered), shifted_mean + pivot.reshape({-1}), variance,
          invstd};
}

at::Tensor apply_affine(const at::Tensor& xhat, const std::optional<at::Tensor>& weight,
                        const std::optional<at::Tensor>& bias, at::ScalarType dtype) {
  at::Tensor y = xhat;
  if (present(weight)) y = y * per_channel(to_double(*weight), y);
  if (present(bias)) y = y + per_channel(to_double(*bias), y);
  return y.to(dtype);
}

// A sum lies in memory as its first operand does.
at::Tensor in_layout_of(const at::Tensor& like, const at::Tensor& tensor) {
  return at::zeros_like(like, tensor.options()) + tensor;
}

at::Tensor scale_of(const at::Tensor& invstd, const at::Tensor& weight) {
  return weight.defined() ? invstd * to_double(weight) : invstd;
}

}  // namespace

Trained train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
              const std::optional<at::Tensor>& bias, double eps) {
  Trained batch = normalize(keeping_layout(input), eps);
  batch.output = apply_affine(batch.output, weight, bias, input.scalar_type());
  return batch;
}

ops::ThreeTensors inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                            const at::Tensor& running_var, double eps) {
  const at::Tensor x = to_double(keeping_layout(input));
  // A copy, whatever the dtype.
  const at::Tensor mean = running_mean.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true);
  const at::Tensor invstd = inverse_std(to_double(running_var), eps);
  const at::Tensor xhat = (x - per_channel(mean, x)) * per_channel(invstd, x);
  return {apply_affine(xhat, weight, bias, input.scalar_type()), mean, invstd};
}

void update_running(const at::Tensor& input, const Trained& batch,
                    const std::optional<at::Tensor>& running_mean,
                    const std::optional<at::Tensor>& running_var,
                    const std::optional<at::Tensor>& num_batches_tracked,
                    std::optional<double> momentum) {
  if (input.sym_numel() == 0) return;
  if (present(running_mean)) {
    // As RunningStatistics::update: infinite values stay infinite.
    const at::Tensor factor = momentum.has_value()
                                  ? at::scalar_tensor(*momentum, at::kDouble)
                                  : at::reciprocal(to_double(*num_batches_tracked) + 1);
    const auto update = [&](const at::Tensor& running, const at::Tensor& latest) {
      running.copy_(to_double(running) * (1 - factor) + latest.detach() * factor);
    };
    const c10::SymInt count = input.sym_numel() / input.sym_size(1);
    update(*running_mean, batch.mean);
    update(*running_var, batch.variance * count / (count - 1));
  }
  if (present(num_batches_tracked)) num_batches_tracked->add_(1);
}

ops::ThreeTensors train_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                 const at::Tensor& weight, double eps, bool need_input,
                                 bool need_weight, bool need_bias) {
  // The formula of core/gradient.h.
  const auto [xhat, mean, variance, invstd] = normalize(input, eps);
  const at::Tensor dy = to_double(grad_output);
  at::Tensor grad_input, grad_weight, grad_bias;
  if (need_input) {
    const at::Tensor along_one = per_channel(mean_per_channel(dy), dy);
    const at::Tensor along_xhat = xhat * per_channel(mean_per_channel(dy * xhat), dy);
    const at::Tensor dx = per_channel(scale_of(invstd, weight), dy) * (dy - along_one - along_xhat);
    grad_input = in_layout_of(input, dx).to(input.scalar_type());
  }
  if (need_weight) grad_weight = sum_per_channel(dy * xhat).to(weight.scalar_type());
  if (need_bias) grad_bias = sum_per_channel(dy);
  return {grad_input, grad_weight, grad_bias};
}

ops::ThreeTensors inference_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                     const at::Tensor& weight, const at::Tensor& mean,
                                     const at::Tensor& invstd, bool need_input, bool need_weight,
                                     bool need_bias) {
  const at::Tensor dy = to_double(grad_output);
  at::Tensor grad_input, grad_weight, grad_bias;
  if (need_input) {
    const at::Tensor dx = dy * per_channel(scale_of(invstd, weight), dy);
    grad_input = (input.defined() ? in_layout_of(input, dx) : dx).to(grad_output.scalar_type());
  }
  if (need_weight) {
    const at::Tensor xhat = (to_double(input) - per_channel(mean, dy)) * per_channel(invstd, dy);
    grad_weight = sum_per_channel(dy * xhat).to(weight.scalar_type());
  }
  if (need_bias) grad_bias = sum_per_channel(dy);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace torchbn::formulas
