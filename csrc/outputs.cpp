#include "outputs.h"

#include <ATen/EmptyTensor.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "optional_tensor.h"
#include "recycled_memory.h"

namespace torchbn {

namespace {

// As torch.empty_like.
at::Tensor allocate_like(const at::Tensor& like) {
  // First, because a symbolic size may not be asked for.
  if (!like.device().is_cpu() || like.nbytes() < kLeastRecycled) return at::empty_like(like);
  const at::Tensor model = at::empty_like(like, at::TensorOptions(at::kMeta));
  return at::detail::empty_strided_generic(model.sizes(), model.strides(), &recycling_allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::CPU),
                                           like.scalar_type());
}

at::Tensor allocate_per_channel(const at::Tensor& like, at::ScalarType dtype) {
  return at::empty_symint({like.sym_size(1)}, like.options().dtype(dtype));
}

at::Tensor allocate_nothing(const at::Tensor& like, at::ScalarType dtype) {
  return at::empty({0}, like.options().dtype(dtype));
}

}  // namespace

ForwardOutputs allocate_forward(const at::Tensor& input) {
  return {allocate_like(input), allocate_per_channel(input, at::kDouble),
          allocate_per_channel(input, at::kDouble)};
}

Gradients allocate_gradients(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
                             const std::optional<at::Tensor>& weight, bool need_input,
                             bool need_weight, bool need_bias) {
  const at::Tensor& like = present(input) ? *input : grad_output;
  const at::ScalarType dtype =
      present(weight) ? weight->scalar_type() : at::toOpMathType(like.scalar_type());
  const auto per_channel = [&](bool needed) {
    return needed ? allocate_per_channel(like, dtype) : allocate_nothing(like, dtype);
  };
  return {need_input ? allocate_like(like) : allocate_nothing(like, like.scalar_type()),
          per_channel(need_weight), per_channel(need_bias)};
}

}  // namespace torchbn
