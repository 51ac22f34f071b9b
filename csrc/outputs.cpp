#include "outputs.h"

#include <ATen/EmptyTensor.h>
#include <ATen/OpMathType.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "optional_tensor.h"
#include "recycled_memory.h"

namespace torchbn {

namespace {

// On the CPU tensors are made without the dispatcher, whose way to an empty tensor is longer than
// that of a small call through its kernel. Others may be fake, with sizes that may not be asked
// for.
constexpr c10::DispatchKeySet kCpu(c10::DispatchKey::CPU);

at::Tensor allocate_vector(const at::Tensor& like, const c10::SymInt& size, at::ScalarType dtype) {
  if (!like.device().is_cpu()) return at::empty_symint({size}, like.options().dtype(dtype));
  return at::detail::empty_generic({size.expect_int()}, &recycling_allocator(), kCpu, dtype,
                                   std::nullopt);
}

at::Tensor allocate_per_channel(const at::Tensor& like, at::ScalarType dtype) {
  return allocate_vector(like, like.sym_size(1), dtype);
}

at::Tensor allocate_nothing(const at::Tensor& like, at::ScalarType dtype) {
  return allocate_vector(like, 0, dtype);
}

}  // namespace

at::Tensor allocate_like(const at::Tensor& like) {
  if (!like.device().is_cpu()) return at::empty_like(like);
  const auto allocate = [&](const at::Tensor& model) {
    return at::detail::empty_strided_generic(model.sizes(), model.strides(), &recycling_allocator(),
                                             kCpu, like.scalar_type());
  };
  if (like.is_non_overlapping_and_dense()) return allocate(like);
  return allocate(at::empty_like(like, at::TensorOptions(at::kMeta)));
}

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
