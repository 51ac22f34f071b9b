// What the operators say of tensors that are not dense: without a kernel of theirs the dispatcher
// would list, on several pages, the keys that do have one.

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "checks.h"

namespace torchbn {

namespace {

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

}  // namespace torchbn
