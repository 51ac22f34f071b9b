// Checks and output geometry for fake tensors: what a compiler or an exporter runs.

#include <torch/library.h>

#include "checks.h"
#include "operators.h"
#include "outputs.h"

namespace torchbn {

namespace {

using ops::ThreeTensors;

ThreeTensors batch_norm_train_meta(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                   const std::optional<at::Tensor>& bias,
                                   const std::optional<at::Tensor>& running_mean,
                                   const std::optional<at::Tensor>& running_var,
                                   const std::optional<at::Tensor>& num_batches_tracked,
                                   std::optional<double> momentum, double eps) {
  check_train(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps);
  auto [output, save_mean, save_invstd] = allocate_forward(input);
  return {output, save_mean, save_invstd};
}

ThreeTensors batch_norm_inference_meta(const at::Tensor& input,
                                       const std::optional<at::Tensor>& weight,
                                       const std::optional<at::Tensor>& bias,
                                       const at::Tensor& running_mean,
                                       const at::Tensor& running_var, double eps) {
  check_inference(input, weight, bias, running_mean, running_var, eps);
  auto [output, save_mean, save_invstd] = allocate_forward(input);
  return {output, save_mean, save_invstd};
}

ThreeTensors batch_norm_backward_meta(const at::Tensor& grad_output,
                                      const std::optional<at::Tensor>& input,
                                      const std::optional<at::Tensor>& weight,
                                      const at::Tensor& mean, const at::Tensor& invstd,
                                      bool training, bool need_input, bool need_weight,
                                      bool need_bias) {
  check_backward(grad_output, input, weight, mean, invstd, training, need_input, need_weight);
  auto [grad_input, grad_weight, grad_bias] =
      allocate_gradients(grad_output, input, weight, need_input, need_weight, need_bias);
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbn, Meta, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_meta));
  m.impl("batch_norm_inference", TORCH_FN(batch_norm_inference_meta));
  m.impl("batch_norm_backward", TORCH_FN(batch_norm_backward_meta));
}

}  // namespace torchbn
