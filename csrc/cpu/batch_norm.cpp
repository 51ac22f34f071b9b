// The operators on the CPU: checks, allocation, kernels.

#include <utility>

#include <torch/library.h>

#include "calls.h"
#include "checks.h"
#include "cpu/kernels.h"
#include "operators.h"

namespace torchbn {

namespace {

using ops::ThreeTensors;

ThreeTensors batch_norm_train_cpu(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias,
                                  const std::optional<at::Tensor>& running_mean,
                                  const std::optional<at::Tensor>& running_var,
                                  const std::optional<at::Tensor>& num_batches_tracked,
                                  std::optional<double> momentum, double eps) {
  check_train(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps);
  TrainCall call(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum,
                 eps);
  if (!call.empty()) cpu::train(call.problem());
  return std::move(call).results();
}

ThreeTensors batch_norm_inference_cpu(const at::Tensor& input,
                                      const std::optional<at::Tensor>& weight,
                                      const std::optional<at::Tensor>& bias,
                                      const at::Tensor& running_mean, const at::Tensor& running_var,
                                      double eps) {
  check_inference(input, weight, bias, running_mean, running_var, eps);
  InferenceCall call(input, weight, bias, running_mean, running_var, eps);
  if (!call.empty()) cpu::inference(call.problem());
  return std::move(call).results();
}

ThreeTensors batch_norm_backward_cpu(const at::Tensor& grad_output,
                                     const std::optional<at::Tensor>& input,
                                     const std::optional<at::Tensor>& weight,
                                     const at::Tensor& mean, const at::Tensor& invstd,
                                     bool training, bool need_input, bool need_weight,
                                     bool need_bias) {
  check_backward(grad_output, input, weight, mean, invstd, training, need_input, need_weight);
  BackwardCall call(grad_output, input, weight, mean, invstd, training, need_input, need_weight,
                    need_bias);
  if (!call.empty()) cpu::backward(call.problem());
  return std::move(call).results();
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbn, CPU, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_cpu));
  m.impl("batch_norm_inference", TORCH_FN(batch_norm_inference_cpu));
  m.impl("batch_norm_backward", TORCH_FN(batch_norm_backward_cpu));
}

}  // namespace torchbn
