// Torch's own operators on tensors of a simulated GPU: the CPU's, on the same memory.

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <c10/cuda/CUDAFunctions.h>

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "cuda/simulated/gpus.h"

namespace torchbn::simulated {

namespace {

// A tensor of the CPU on the same memory, or an empty one, which an operator may resize.
at::Tensor on_cpu(const at::Tensor& tensor) {
  const at::TensorOptions options = tensor.options().device(at::kCPU);
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  at::Tensor alias = at::from_blob(tensor.unsafeGetTensorImpl()->mutable_data(), tensor.sizes(),
                                   tensor.strides(), options);
  alias._set_neg(tensor.is_neg());
  alias._set_conj(tensor.is_conj());
  return alias;
}

at::Tensor on_device(const at::Tensor& tensor, at::Device device) {
  const at::Tensor copy =
      at::empty_strided(tensor.sizes(), tensor.strides(), tensor.options().device(device));
  if (tensor.numel() > 0) on_cpu(copy).copy_(tensor);
  return copy;
}

// A call with the CPU's tensors in the place of the GPU's.
class Call {
 public:
  c10::IValue argument(const c10::IValue& value) {
    if (value.isTensor()) return tensor(value.toTensor());
    if (value.isTensorList()) {
      std::vector<at::Tensor> tensors;
      for (const at::Tensor& one : value.toTensorVector()) tensors.push_back(tensor(one));
      return tensors;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> tensors;
      for (const std::optional<at::Tensor>& one : value.toOptionalTensorVector())
        tensors.push_back(one ? std::optional(tensor(*one)) : std::nullopt);
      return tensors;
    }
    if (value.isDevice() && value.toDevice().is_cuda()) {
      device_ = value.toDevice();
      if (!device_.has_index()) device_.set_index(c10::cuda::current_device());
      return at::Device(at::kCPU);
    }
    return value;
  }

  c10::IValue result(const c10::IValue& value) const {
    if (value.isTensor()) return result(value.toTensor());
    if (!value.isTensorList()) return value;
    std::vector<at::Tensor> tensors;
    for (const at::Tensor& one : value.toTensorVector()) tensors.push_back(result(one));
    return tensors;
  }

 private:
  at::Tensor tensor(const at::Tensor& given) {
    if (!given.defined() || !given.is_cuda()) return given;
    if (device_.is_cpu() || given.dim() > 0) device_ = given.device();
    given_.push_back(given);
    used_.push_back(on_cpu(given));
    return used_.back();
  }

  // What was given, where the result is that.
  at::Tensor result(const at::Tensor& tensor) const {
    if (!tensor.defined()) return tensor;
    for (size_t i = 0; i < used_.size(); ++i) {
      if (!tensor.is_same(used_[i])) continue;
      if (tensor.sizes() != given_[i].sizes()) {
        given_[i].resize_(tensor.sizes());
        on_cpu(given_[i]).copy_(tensor);
      }
      return given_[i];
    }
    return on_device(tensor, device_);
  }

  at::Device device_ = at::kCPU;
  std::vector<at::Tensor> given_, used_;
};

void call_on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  {
    const std::lock_guard lock(gpus().mutex);
    TORCH_CHECK(gpus().captures == 0, op.operator_name(),
                " is not simulated while a graph is captured");
    ++gpus().torch_calls;
  }
  Call call;
  const auto first_of = [&](size_t count) { return stack->end() - static_cast<ptrdiff_t>(count); };
  const auto arguments = first_of(op.schema().arguments().size());
  std::transform(arguments, stack->end(), arguments,
                 [&](const c10::IValue& value) { return call.argument(value); });
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  const auto results = first_of(op.schema().returns().size());
  std::transform(results, stack->end(), results,
                 [&](const c10::IValue& value) { return call.result(value); });
}

// What allocates memory, or looks at it in another way, works as it is.
bool is_taken_over(const c10::OperatorHandle& op) {
  static const std::unordered_set<std::string> left = {
      "aten::_copy_from",      "aten::_copy_from_and_resize",
      "aten::_pin_memory",     "aten::_reshape_alias",
      "aten::as_strided",      "aten::empty",
      "aten::empty_strided",   "aten::is_pinned",
      "aten::is_set_to",       "aten::record_stream",
      "aten::resize_",         "aten::set_",
      "aten::unfold",          "aten::view",
      "aten::view_as_complex", "aten::view_as_real"};
  const std::string& name = op.operator_name().name;
  if (name == "aten::copy_") return true;  // the same function for all devices
  return name.rfind("aten::", 0) == 0 && left.count(name) == 0 &&
         op.hasKernelForDispatchKey(c10::DispatchKey::CUDA) &&
         op.hasKernelForDispatchKey(c10::DispatchKey::CPU);
}

// Torch warns of kernels that take the place of others.
struct Silence : c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

std::vector<c10::RegistrationHandleRAII> take_over() {
  Silence silence;
  const c10::WarningUtils::WarningHandlerGuard guard(&silence);
  at::globalContext().setUserEnabledCuDNN(false);
  c10::Dispatcher& dispatcher = c10::Dispatcher::singleton();
  std::vector<c10::RegistrationHandleRAII> kernels;
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const std::optional<c10::OperatorHandle> op = dispatcher.findOp(name);
    if (!op || !is_taken_over(*op)) continue;
    kernels.push_back(dispatcher.registerImpl(
        name, c10::DispatchKey::CUDA, c10::KernelFunction::makeFromBoxedFunction<call_on_cpu>(),
        std::nullopt, nullptr, "simulated"));
  }
  return kernels;
}

// Never destroyed: at the end of the process, torch's registrations may be gone before these.
const auto& kKernels = *new auto(take_over());

}  // namespace

}  // namespace torchbn::simulated
