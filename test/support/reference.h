#pragma once

#include <ATen/core/Tensor.h>

namespace torchbn::test {

// Batch normalization in float64 on the CPU, written down plainly: two passes over the data, one
// formula per line. Undefined tensors stand for absent arguments; results are float64 on the CPU.

struct Forward {
  at::Tensor output;  // [N, C, ...]
  at::Tensor mean;    // [C]
  at::Tensor var;     // [C], biased in training, the running one in evaluation
  at::Tensor invstd;  // [C]
};

Forward train(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
              double eps);

Forward evaluate(const at::Tensor& input, const at::Tensor& weight, const at::Tensor& bias,
                 const at::Tensor& running_mean, const at::Tensor& running_var, double eps);

struct Gradients {
  at::Tensor input;   // [N, C, ...]
  at::Tensor weight;  // [C]
  at::Tensor bias;    // [C]
};

// Given the forward pass on the same input.
Gradients backward(const at::Tensor& grad_output, const at::Tensor& input, const at::Tensor& weight,
                   const Forward& forward, bool training);

// What a running statistic becomes when `batch` is seen with weight `factor`.
at::Tensor tracked(const at::Tensor& running, const at::Tensor& batch, double factor);

// The unbiased variance that is tracked.
at::Tensor unbiased(const at::Tensor& var, int64_t count);

// Values per channel.
int64_t count_of(const at::Tensor& input);

// [C] -> [1, C, 1, ...], to be combined with `data`.
at::Tensor per_channel(const at::Tensor& vector, const at::Tensor& data);

// Sums over all axes but the channels': [N, C, ...] -> [C].
at::Tensor sum_per_channel(const at::Tensor& data);

// In float64 on the CPU; undefined tensors stay undefined.
at::Tensor exact(const at::Tensor& tensor);

}  // namespace torchbn::test
