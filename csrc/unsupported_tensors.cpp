// What the operators say of tensors that they can't work on, under the dispatch keys that those
// have.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "checks.h"

namespace torchbn {

namespace {

// Without kernels for them the dispatcher would list, on several pages, the keys that have some.
void refuse(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const bool backward = op.schema().name() == "torchbn::batch_norm_backward";
  const auto& arguments = op.schema().arguments();
  const auto values = torch::jit::last(*stack, arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (values[i].isTensor())
      check_dense(arguments[i].name().c_str(), values[i].toTensor(),
                  backward ? "batch_norm_backward" : "batch_norm");
  }
  TORCH_CHECK(false, op.schema().name(), ": all tensors must be dense");
}

// What is read may be a lazily negated view. The dispatcher would resolve those that are written as
// well, and object only when the copies had been updated, and other buffers with them.
void resolve_what_is_read(const c10::OperatorHandle& op, c10::DispatchKeySet keys,
                          torch::jit::Stack* stack) {
  const auto& arguments = op.schema().arguments();
  const size_t begin = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[begin + i];
    if (!value.isTensor() || !value.toTensor().is_neg()) continue;
    TORCH_CHECK(arguments[i].alias_info() == nullptr, "batch_norm: ", arguments[i].name(),
                " is a lazily negated view, which can't be updated in place; resolve_neg() first");
    value = value.toTensor().resolve_neg();
  }
  const c10::DispatchKeySet below(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::Negative);
  op.redispatchBoxed(keys & below, stack);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(torchbn, m) {
  for (const auto key :
       {c10::DispatchKey::SparseCPU, c10::DispatchKey::SparseCUDA, c10::DispatchKey::SparseMeta,
        c10::DispatchKey::SparseCsrCPU, c10::DispatchKey::SparseCsrCUDA,
        c10::DispatchKey::SparseCsrMeta, c10::DispatchKey::MkldnnCPU,
        c10::DispatchKey::QuantizedCPU, c10::DispatchKey::QuantizedCUDA,
        c10::DispatchKey::NestedTensorCPU, c10::DispatchKey::NestedTensorCUDA}) {
    for (const char* name : {"batch_norm_train", "batch_norm_inference", "batch_norm_backward"})
      m.impl(name, torch::dispatch(key, torch::CppFunction::makeFromBoxedFunction<&refuse>()));
  }
}

TORCH_LIBRARY_IMPL(torchbn, Negative, m) {
  m.impl("batch_norm_train", torch::CppFunction::makeFromBoxedFunction<&resolve_what_is_read>());
}

}  // namespace torchbn
