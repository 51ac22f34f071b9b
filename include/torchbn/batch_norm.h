#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <torchbn/export.h>

namespace torchbn {

/// Batch normalization (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167):
///
///     y = (x - mean) / sqrt(var + eps) * weight + bias, per channel.
///
/// In training mean and var are those of the batch (the variance biased), and the running
/// statistics are updated in place. In evaluation they are the running statistics. The result has
/// the input's shape, dtype and memory format. Differentiable in input, weight and bias.
///
/// input                [N, C, ...], rank 2 or more; float32, float64, bfloat16 or float16
/// weight, bias         [C] each; absent: 1 and 0
/// running_mean, _var   [C] each, both or neither; updated in training, where they may be strided
///                      views: new = (1 - momentum) * old + momentum * batch, with the unbiased
///                      variance; needed in evaluation
/// training             whether to use the statistics of the batch
/// momentum             weight of the new batch; absent: the cumulative average,
///                      1 / num_batches_tracked; ignored in evaluation
/// eps                  added to the variance; finite and not negative
/// num_batches_tracked  int64 scalar on the input's device, incremented by one in training
///
/// weight, bias and the running statistics have the input's dtype or, for the half types, float32,
/// each independently. An input without elements leaves statistics and counter untouched.
///
/// Throws c10::Error, before anything is modified, when an argument does not fit, and in training
/// when there is only one value per channel.
TORCHBN_API at::Tensor batch_norm(
    const at::Tensor& input, const std::optional<at::Tensor>& weight = std::nullopt,
    const std::optional<at::Tensor>& bias = std::nullopt,
    const std::optional<at::Tensor>& running_mean = std::nullopt,
    const std::optional<at::Tensor>& running_var = std::nullopt, bool training = false,
    std::optional<double> momentum = 0.1, double eps = 1e-5,
    const std::optional<at::Tensor>& num_batches_tracked = std::nullopt);

}  // namespace torchbn
