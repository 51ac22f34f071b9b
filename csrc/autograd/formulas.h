#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

#include "operators.h"

namespace torchbn::formulas {

// Batch normalization written with differentiable ATen operators, for what one kernel call cannot
// express: derivatives of derivatives, forward-mode derivatives, torch.func. Exact rather than
// fast: everything is computed in float64 and rounded once. Never through at::batch_norm, whose
// nested derivatives are wrong.

struct Trained {
  at::Tensor output;
  at::Tensor mean;      // [C] float64, as the other statistics
  at::Tensor variance;  // [C], biased
  at::Tensor invstd;    // [C]
};

Trained train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
              const std::optional<at::Tensor>& bias, double eps);

// (output, mean [C], invstd [C]), the statistics float64
ops::ThreeTensors inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                            const at::Tensor& running_var, double eps);

// What a training step does to the running statistics and the counter, given the result of train().
void update_running(const at::Tensor& input, const Trained& batch,
                    const std::optional<at::Tensor>& running_mean,
                    const std::optional<at::Tensor>& running_var,
                    const std::optional<at::Tensor>& num_batches_tracked,
                    std::optional<double> momentum);

// (grad_input, grad_weight, grad_bias), each undefined where it is not needed; differentiable in
// grad_output, weight and input, through the statistics in training.
ops::ThreeTensors train_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                 const at::Tensor& weight, double eps, bool need_input,
                                 bool need_weight, bool need_bias);

// The same with constant statistics; input may be undefined where weight needs no gradient.
ops::ThreeTensors inference_backward(const at::Tensor& grad_output, const at::Tensor& input,
                                     const at::Tensor& weight, const at::Tensor& mean,
                                     const at::Tensor& invstd, bool need_input, bool need_weight,
                                     bool need_bias);

}  // namespace torchbn::formulas
