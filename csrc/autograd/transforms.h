#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include "operators.h"

namespace torchbn::transforms {

// The internal operators for callers that a torch::autograd::Function and a kernel can't serve:
// forward-mode tangents and the transforms of torch.func. Checks, then the formulas.

inline bool inside_transform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// Does the function that is called see one tensor of this batch, by vmap or by autograd's
// is_grads_batched?
inline bool is_batched(const at::Tensor& tensor) {
  return tensor.key_set().has_any(
      c10::DispatchKeySet({c10::DispatchKey::FuncTorchBatched, c10::DispatchKey::Batched}));
}

inline bool has_tangent(const at::Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

inline bool has_tangent(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && has_tangent(*tensor);
}

template <typename... Tensors>
bool wants_formulas(const Tensors&... tensors) {
  return inside_transform() || (has_tangent(tensors) || ...);
}

ops::ThreeTensors batch_norm_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                   const std::optional<at::Tensor>& bias,
                                   const std::optional<at::Tensor>& running_mean,
                                   const std::optional<at::Tensor>& running_var,
                                   const std::optional<at::Tensor>& num_batches_tracked,
                                   std::optional<double> momentum, double eps);

ops::ThreeTensors batch_norm_inference(const at::Tensor& input,
                                       const std::optional<at::Tensor>& weight,
                                       const std::optional<at::Tensor>& bias,
                                       const at::Tensor& running_mean,
                                       const at::Tensor& running_var, double eps);

}  // namespace torchbn::transforms
