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
/// running_mean,        [C] each, both or neither; needed in evaluation. Updated in training:
/// running_var          new = (1 - momentum) * old + momentum * batch, with the unbiased variance
/// training             whether to use the statistics of the batch
/// momentum             weight of the new batch, any finite number; absent: the cumulative average,
///                      1 / num_batches_tracked, for which running statistics need the counter.
///                      Ignored in evaluation
/// eps                  added to the variance; finite and not negative
/// num_batches_tracked  [] int64; incremented by one in training, ignored in evaluation
///
/// All tensors are on the input's device, and none is sparse. weight, bias and the running
/// statistics have the input's dtype or, for the half types, float32, each independently. Running
/// statistics must not require grad.
///
/// What training updates, running statistics and counter, may be strided views. But no two of their
/// elements may share memory, as those of expanded tensors do, nor may one share it with input,
/// weight or bias. Outside inference mode they must not be inference tensors. An input without
/// elements leaves them untouched.
///
/// Throws c10::Error, before anything is modified, when an argument does not fit, in training when
/// there is only one value per channel, and when an environment variable of torchbn is malformed.
TORCHBN_API at::Tensor batch_norm(
    const at::Tensor& input, const std::optional<at::Tensor>& weight = std::nullopt,
    const std::optional<at::Tensor>& bias = std::nullopt,
    const std::optional<at::Tensor>& running_mean = std::nullopt,
    const std::optional<at::Tensor>& running_var = std::nullopt, bool training = false,
    std::optional<double> momentum = 0.1, double eps = 1e-5,
    const std::optional<at::Tensor>& num_batches_tracked = std::nullopt);

}  // namespace torchbn
