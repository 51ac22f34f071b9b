#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace torchbn {

// Shape, strides, dtype and device of every output, decided once for real and fake tensors. Sizes
// may be symbolic.

// As torch.empty_like; on the CPU in recycled memory, unless the tensor is small.
at::Tensor allocate_like(const at::Tensor& like);

struct ForwardOutputs {
  at::Tensor output;       // as torch.empty_like(input)
  at::Tensor save_mean;    // [C] float64
  at::Tensor save_invstd;  // [C] float64
};

ForwardOutputs allocate_forward(const at::Tensor& input);

struct Gradients {
  at::Tensor input;   // as torch.empty_like(input), of grad_output where input is absent
  at::Tensor weight;  // [C]
  at::Tensor bias;    // [C]
};

// Those not needed are tensors without elements: an operator returns defined tensors only.
Gradients allocate_gradients(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
                             const std::optional<at::Tensor>& weight, bool need_input,
                             bool need_weight, bool need_bias);

}  // namespace torchbn
