#include "operators.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace torchbn::ops {

namespace {

// Takes time: callers keep the handle.
template <typename Function>
c10::TypedOperatorHandle<Function> find(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

const auto& train_operator() {
  static const auto op = find<decltype(batch_norm_train)>("torchbn::batch_norm_train");
  return op;
}

}  // namespace

ThreeTensors batch_norm_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                              const std::optional<at::Tensor>& bias,
                              const std::optional<at::Tensor>& running_mean,
                              const std::optional<at::Tensor>& running_var,
                              const std::optional<at::Tensor>& num_batches_tracked,
                              std::optional<double> momentum, double eps) {
  return train_operator().call(input, weight, bias, running_mean, running_var, num_batches_tracked,
                               momentum, eps);
}

ThreeTensors redispatch_batch_norm_train(c10::DispatchKeySet keys, const at::Tensor& input,
                                         const std::optional<at::Tensor>& weight,
                                         const std::optional<at::Tensor>& bias,
                                         const std::optional<at::Tensor>& running_mean,
                                         const std::optional<at::Tensor>& running_var,
                                         const std::optional<at::Tensor>& num_batches_tracked,
                                         std::optional<double> momentum, double eps) {
  return train_operator().redispatch(keys, input, weight, bias, running_mean, running_var,
                                     num_batches_tracked, momentum, eps);
}

ThreeTensors batch_norm_inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias,
                                  const at::Tensor& running_mean, const at::Tensor& running_var,
                                  double eps) {
  static const auto op = find<decltype(batch_norm_inference)>("torchbn::batch_norm_inference");
  return op.call(input, weight, bias, running_mean, running_var, eps);
}

ThreeTensors batch_norm_backward(const at::Tensor& grad_output,
                                 const std::optional<at::Tensor>& input,
                                 const std::optional<at::Tensor>& weight, const at::Tensor& mean,
                                 const at::Tensor& invstd, bool training, bool need_input,
                                 bool need_weight, bool need_bias) {
  static const auto op = find<decltype(batch_norm_backward)>("torchbn::batch_norm_backward");
  return op.call(grad_output, input, weight, mean, invstd, training, need_input, need_weight,
                 need_bias);
}

}  // namespace torchbn::ops
