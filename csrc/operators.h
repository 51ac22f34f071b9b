#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

namespace torchbn::ops {

// The internal operators, called through the dispatcher: the one road for every caller. Their
// schemas are in library.cpp, the shapes of their arguments in checks.h.

using ThreeTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

// (output [N, C, ...], save_mean [C] float64, save_invstd [C] float64)
ThreeTensors batch_norm_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                              const std::optional<at::Tensor>& bias,
                              const std::optional<at::Tensor>& running_mean,
                              const std::optional<at::Tensor>& running_var,
                              const std::optional<at::Tensor>& num_batches_tracked,
                              std::optional<double> momentum, double eps);

// The same, for a kernel that passes a call on to the keys below its own.
ThreeTensors redispatch_batch_norm_train(c10::DispatchKeySet keys, const at::Tensor& input,
                                         const std::optional<at::Tensor>& weight,
                                         const std::optional<at::Tensor>& bias,
                                         const std::optional<at::Tensor>& running_mean,
                                         const std::optional<at::Tensor>& running_var,
                                         const std::optional<at::Tensor>& num_batches_tracked,
                                         std::optional<double> momentum, double eps);

// (output [N, C, ...], save_mean [C] float64, save_invstd [C] float64), the last two made from the
// running statistics
ThreeTensors batch_norm_inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias,
                                  const at::Tensor& running_mean, const at::Tensor& running_var,
                                  double eps);

// (grad_input [N, C, ...], grad_weight [C], grad_bias [C]); those not needed are empty tensors. The
// parameter gradients have weight's dtype; without weight float32 for half inputs, else that of the
// input.
ThreeTensors batch_norm_backward(const at::Tensor& grad_output,
                                 const std::optional<at::Tensor>& input,
                                 const std::optional<at::Tensor>& weight, const at::Tensor& mean,
                                 const at::Tensor& invstd, bool training, bool need_input,
                                 bool need_weight, bool need_bias);

}  // namespace torchbn::ops
