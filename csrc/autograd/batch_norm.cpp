// Differentiation of the internal operators, on top of whichever kernels they have.

#include <mutex>
#include <type_traits>

#include <ATen/OpMathType.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>
#include <torch/version.h>

#include "autograd/formulas.h"
#include "autograd/transforms.h"
#include "operators.h"
#include "optional_tensor.h"

namespace torchbn {

namespace {

using ops::ThreeTensors;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor or_undefined(const std::optional<at::Tensor>& tensor) {
  return tensor.value_or(at::Tensor());
}

std::optional<at::Tensor> or_absent(const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

// Everything about a call that is not differentiable. Passed by one pointer, since each tensor
// argument of a Function becomes an edge of the graph, and each output one more.
struct NonDifferentiable {
  double eps;
  at::Tensor save_mean;    // result
  at::Tensor save_invstd;  // result
};

struct Training : NonDifferentiable {
  const std::optional<at::Tensor>& running_mean;
  const std::optional<at::Tensor>& running_var;
  const std::optional<at::Tensor>& num_batches_tracked;
  std::optional<double> momentum;

  static constexpr bool kTraining = true;

  ThreeTensors forward(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                       const std::optional<at::Tensor>& bias) const {
    return ops::batch_norm_train(input, weight, bias, running_mean, running_var,
                                 num_batches_tracked, momentum, eps);
  }
};

struct Evaluation : NonDifferentiable {
  const at::Tensor& running_mean;
  const at::Tensor& running_var;

  static constexpr bool kTraining = false;

  ThreeTensors forward(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                       const std::optional<at::Tensor>& bias) const {
    return ops::batch_norm_inference(input, weight, bias, running_mean, running_var, eps);
  }
};

// Which gradients the engine asks for. needs_input_grad counts only arguments that were given.
struct Needs {
  Needs(AutogradContext* ctx, bool has_weight, bool has_bias)
      : input(ctx->needs_input_grad(0)),
        weight(has_weight && ctx->needs_input_grad(1)),
        bias(has_bias && ctx->needs_input_grad(has_weight ? 2 : 1)) {}
  bool input;
  bool weight;
  bool bias;
};

// The operator returns both parameter gradients in weight's dtype. Where bias is the wider of the
// two, a widened weight keeps the gradient of bias whole; autograd rounds that of weight.
at::Tensor as_wide_as(const at::Tensor& weight, int64_t bias_dtype) {
  const auto dtype = static_cast<at::ScalarType>(bias_dtype);
  const bool wider = weight.defined() && dtype == at::toOpMathType(weight.scalar_type());
  return wider ? weight.to(dtype) : weight;
}

template <typename Derived, typename Mode>
class BatchNormFunction : public torch::autograd::Function<Derived> {
 public:
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input,
                            const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias, Mode* mode) {
    // Not below ADInplaceOrView: the version counters of the running statistics have to be bumped.
    at::AutoDispatchBelowAutograd guard;
    auto [output, mean, invstd] = mode->forward(input, weight, bias);
    // Evaluation keeps the input alive only for the gradient of weight, or where no memory format
    // says how grad_input is to lie. The statistics are copies: the running ones may be updated
    // before backward.
    const bool keeps_input = Mode::kTraining || (present(weight) && weight->requires_grad()) ||
                             !input.is_contiguous(input.suggest_memory_format());
    ctx->save_for_backward(
        {keeps_input ? input : at::Tensor(), or_undefined(weight), mean, invstd});
    ctx->set_materialize_grads(false);
    // Compiled autograd keeps saved_data, nothing else.
    if (Mode::kTraining) ctx->saved_data["eps"] = mode->eps;
    if (!keeps_input)
      ctx->saved_data["memory_format"] = static_cast<int64_t>(input.suggest_memory_format());
    if (present(bias)) ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias->scalar_type());
    mode->save_mean = std::move(mean);
    mode->save_invstd = std::move(invstd);
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    if (!grad_outputs[0].defined()) return variable_list(4);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &input = saved[0], &weight = saved[1], &mean = saved[2], &invstd = saved[3];
    const auto bias_dtype = ctx->saved_data.find("bias_dtype");
    const bool has_bias = bias_dtype != ctx->saved_data.end();
    const Needs needs(ctx, weight.defined(), has_bias);
    // What is recorded is differentiated further, and so is a gradient that carries a tangent, as
    // in forward-over-reverse. (Where input or weight had one, nothing was recorded here.)
    const bool differentiated =
        at::GradMode::is_enabled() || transforms::wants_formulas(grad_outputs[0]);
    // Where the input is not there, grad_output has to carry its memory format. Of a batch of
    // gradients that can't be asked.
    const at::Tensor grad_output = input.defined() || transforms::is_batched(grad_outputs[0])
                                       ? grad_outputs[0]
                                       : grad_outputs[0].contiguous(static_cast<at::MemoryFormat>(
                                             ctx->saved_data.at("memory_format").toInt()));
    const auto gradients = [&]() -> ThreeTensors {
      if (differentiated && Mode::kTraining) {
        // The statistics are functions of the input here; the saved ones are constants.
        return formulas::train_backward(grad_output, input, weight,
                                        ctx->saved_data.at("eps").toDouble(), needs.input,
                                        needs.weight, needs.bias);
      }
      if (differentiated) {
        return formulas::inference_backward(grad_output, input, weight, mean, invstd, needs.input,
                                            needs.weight, needs.bias);
      }
      at::AutoDispatchBelowAutograd guard;
      const at::Tensor wide_weight =
          has_bias ? as_wide_as(weight, bias_dtype->second.toInt()) : weight;
      return ops::batch_norm_backward(grad_output, or_absent(input), or_absent(wide_weight), mean,
                                      invstd, Mode::kTraining, needs.input, needs.weight,
                                      needs.bias);
    }();
    // One per argument of forward, undefined where none is asked for.
    const auto& [grad_input, grad_weight, grad_bias] = gradients;
    return {needs.input ? grad_input : at::Tensor(), needs.weight ? grad_weight : at::Tensor(),
            needs.bias ? grad_bias : at::Tensor(), at::Tensor()};
  }
};

// By these names nodes of the graph, and profiles, show them.
struct BatchNormTrainBackward : BatchNormFunction<BatchNormTrainBackward, Training> {};
struct BatchNormInferenceBackward : BatchNormFunction<BatchNormInferenceBackward, Evaluation> {};

}  // namespace
}  // namespace torchbn

// What apply() does in the versions of torch that it was compared with, but that asks for the
// node's name each time, to have it for an error that backward() can't cause: spelling the name of
// a type is a fifth of all that lies between the engine and the kernel.
#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 11 && TORCH_VERSION_MINOR <= 15
namespace torch::autograd {

template <>
variable_list CppNode<torchbn::BatchNormTrainBackward>::apply(variable_list&& inputs) {
  const std::lock_guard lock(mutex_);
  return CppNode_apply_functional<torchbn::BatchNormTrainBackward>(
      std::move(inputs), ctx_, is_variable_input_, output_info_, "batch_norm");
}

template <>
variable_list CppNode<torchbn::BatchNormInferenceBackward>::apply(variable_list&& inputs) {
  const std::lock_guard lock(mutex_);
  return CppNode_apply_functional<torchbn::BatchNormInferenceBackward>(
      std::move(inputs), ctx_, is_variable_input_, output_info_, "batch_norm");
}

}  // namespace torch::autograd
#endif

namespace torchbn {
namespace {

// Autograd would refuse to save it, but only after training has updated the running statistics.
void check_can_be_saved(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(!tensor.defined() || !tensor.is_inference(), "batch_norm: ", name,
              " is an inference tensor, which can't be saved for backward; clone it outside "
              "inference mode first");
}

// Records the call where a gradient is wanted. An undefined input has none; the kernel says what is
// wrong with it.
template <typename Mode>
ThreeTensors run(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                 const std::optional<at::Tensor>& bias, Mode mode) {
  if (input.defined() && torch::autograd::compute_requires_grad(input, weight, bias)) {
    if (Mode::kTraining) {
      check_can_be_saved("input", input);
      check_can_be_saved("weight", or_undefined(weight));
    }
    using Function =
        std::conditional_t<Mode::kTraining, BatchNormTrainBackward, BatchNormInferenceBackward>;
    at::Tensor output = Function::apply(input, weight, bias, &mode);
    return {std::move(output), std::move(mode.save_mean), std::move(mode.save_invstd)};
  }
  at::AutoDispatchBelowAutograd guard;
  return mode.forward(input, weight, bias);
}

ThreeTensors batch_norm_train_autograd(const at::Tensor& input,
                                       const std::optional<at::Tensor>& weight,
                                       const std::optional<at::Tensor>& bias,
                                       const std::optional<at::Tensor>& running_mean,
                                       const std::optional<at::Tensor>& running_var,
                                       const std::optional<at::Tensor>& num_batches_tracked,
                                       std::optional<double> momentum, double eps) {
  // A Function knows neither forward-mode tangents nor the transforms of torch.func.
  if (transforms::wants_formulas(input, weight, bias, running_mean, running_var)) {
    return transforms::batch_norm_train(input, weight, bias, running_mean, running_var,
                                        num_batches_tracked, momentum, eps);
  }
  return run(input, weight, bias,
             Training{{eps, {}, {}}, running_mean, running_var, num_batches_tracked, momentum});
}

ThreeTensors batch_norm_inference_autograd(const at::Tensor& input,
                                           const std::optional<at::Tensor>& weight,
                                           const std::optional<at::Tensor>& bias,
                                           const at::Tensor& running_mean,
                                           const at::Tensor& running_var, double eps) {
  if (transforms::wants_formulas(input, weight, bias, running_mean, running_var)) {
    return transforms::batch_norm_inference(input, weight, bias, running_mean, running_var, eps);
  }
  return run(input, weight, bias, Evaluation{{eps, {}, {}}, running_mean, running_var});
}

// The dispatcher does not know what a custom operator mutates: without this, autograd would not
// notice that a tensor it saved has changed.
ThreeTensors batch_norm_train_version_bump(c10::DispatchKeySet keys, const at::Tensor& input,
                                           const std::optional<at::Tensor>& weight,
                                           const std::optional<at::Tensor>& bias,
                                           const std::optional<at::Tensor>& running_mean,
                                           const std::optional<at::Tensor>& running_var,
                                           const std::optional<at::Tensor>& num_batches_tracked,
                                           std::optional<double> momentum, double eps) {
  auto results = [&] {
    at::AutoDispatchBelowADInplaceOrView guard;
    return ops::redispatch_batch_norm_train(keys & c10::after_ADInplaceOrView_keyset, input, weight,
                                            bias, running_mean, running_var, num_batches_tracked,
                                            momentum, eps);
  }();
  for (const auto* buffer : {&running_mean, &running_var, &num_batches_tracked}) {
    // Inference tensors have no version; the checks let them pass only where that is fine.
    if (present(*buffer) && !(*buffer)->is_inference())
      (*buffer)->unsafeGetTensorImpl()->bump_version();
  }
  return results;
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbn, Autograd, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_autograd));
  m.impl("batch_norm_inference", TORCH_FN(batch_norm_inference_autograd));
  // Differentiating backward by itself raises: its gradients are defined through the two above.
  m.impl("batch_norm_backward", torch::autograd::autogradNotImplementedFallback());
}

TORCH_LIBRARY_IMPL(torchbn, ADInplaceOrView, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_version_bump));
}

}  // namespace torchbn
