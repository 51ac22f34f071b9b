#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace torchbn {

// The argument checks of each operator, called first in every CPU, CUDA and Meta kernel: an error
// is raised before any memory is touched, in the same words everywhere. Sizes may be symbolic.
//
//   input, grad_output                      [N, C, ...]
//   weight, bias, running_mean, running_var [C], of input's dtype or the float32 of a half type
//   num_batches_tracked                     [] int64
//   mean, invstd                            [C] float64

// Whether kernels know tensors of this kind: no sparse, nested, quantized or oneDNN ones.
void check_dense(const char* name, const at::Tensor& tensor, const char* op = "batch_norm");

void check_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                 const std::optional<at::Tensor>& bias,
                 const std::optional<at::Tensor>& running_mean,
                 const std::optional<at::Tensor>& running_var,
                 const std::optional<at::Tensor>& num_batches_tracked,
                 std::optional<double> momentum, double eps);

// What batch_norm asks before it calls one of the operators: is there an input, without which the
// dispatcher may not know whose kernels to call, and in evaluation what to normalise with?
void check_batch_norm(const at::Tensor& input, const std::optional<at::Tensor>& running_mean,
                      const std::optional<at::Tensor>& running_var, bool training);

void check_inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                     const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                     const at::Tensor& running_var, double eps);

void check_backward(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
                    const std::optional<at::Tensor>& weight, const at::Tensor& mean,
                    const at::Tensor& invstd, bool training, bool need_input, bool need_weight);

}  // namespace torchbn
