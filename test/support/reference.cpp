#include "support/reference.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

namespace torchbn::test {

at::Tensor exact(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.detach().to(at::kCPU, at::kDouble) : tensor;
}

int64_t count_of(const at::Tensor& input) {
  return input.numel() / input.size(1);
}

at::Tensor per_channel(const at::Tensor& vector, const at::Tensor& data) {
  std::vector<int64_t> shape(data.dim(), 1);
  shape[1] = vector.numel();
  return vector.reshape(shape);
}

at::Tensor sum_per_channel(const at::Tensor& data) {
  return data.transpose(0, 1).reshape({data.size(1), -1}).sum(1);
}

namespace {

at::Tensor mean_per_channel(const at::Tensor& data) {
  return sum_per_channel(data) / count_of(data);
}

// 1 / sqrt(var + eps), 0 for a division by zero.
at::Tensor inverse_std(const at::Tensor& var, double eps) {
  const at::Tensor shifted = var + eps;
  return at::where(shifted == 0, at::zeros_like(shifted), at::rsqrt(shifted));
}

at::Tensor affine(const at::Tensor& xhat, const at::Tensor& weight, const at::Tensor& bias) {
  at::Tensor y = xhat;
  if (weight.defined()) y = y * per_channel(exact(weight), y);
  if (bias.defined()) y = y + per_channel(exact(bias), y);
  return y;
}

}  // namespace

Forward train(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
              double eps) {
  const at::Tensor x = exact(input);
  // The second step removes what rounding left in the first.
  at::Tensor mean = mean_per_channel(x);
  mean = mean + mean_per_channel(x - per_channel(mean, x));
  const at::Tensor centered = x - per_channel(mean, x);
  const at::Tensor var = mean_per_channel(centered * centered);
  const at::Tensor invstd = inverse_std(var, eps);
  return {affine(centered * per_channel(invstd, x), weight, bias), mean, var, invstd};
}

Forward evaluate(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                 const at::Tensor& running_mean, const at::Tensor& running_var, double eps) {
  const at::Tensor x = exact(input);
  const at::Tensor mean = exact(running_mean);
  const at::Tensor var = exact(running_var);
  const at::Tensor invstd = inverse_std(var, eps);
  const at::Tensor xhat = (x - per_channel(mean, x)) * per_channel(invstd, x);
  return {affine(xhat, weight, bias), mean, var, invstd};
}

Gradients backward(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight,
                   const Forward& forward, bool training) {
  const at::Tensor x = exact(input);
  const at::Tensor dy = exact(grad_output);
  const at::Tensor xhat = (x - per_channel(forward.mean, x)) * per_channel(forward.invstd, x);
  const at::Tensor scale = weight.defined() ? exact(weight) * forward.invstd : forward.invstd;

  const at::Tensor grad_bias = sum_per_channel(dy);
  const at::Tensor grad_weight = sum_per_channel(dy * xhat);
  at::Tensor through = dy;
  if (training) {
    const double n = static_cast<double>(count_of(x));
    through = dy - per_channel(grad_bias / n, x) - xhat * per_channel(grad_weight / n, x);
  }
  return {through * per_channel(scale, x), grad_weight, grad_bias};
}

at::Tensor tracked(const at::Tensor& running, const at::Tensor& batch, double factor) {
  return (1 - factor) * exact(running) + factor * batch;
}

at::Tensor unbiased(const at::Tensor& var, int64_t count) {
  return var * (static_cast<double>(count) / (static_cast<double>(count) - 1));
}

}  // namespace torchbn::test
