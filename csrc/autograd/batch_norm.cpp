// Differentiation of the internal operators, on top of whichever kernels they have.

#include <ATen/OpMathType.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include "autograd/composite.h"
#include "checks.h"
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

// What backward has to know beside the saved tensors. Compiled autograd keeps saved_data, nothing
// else.
void remember(AutogradContext* ctx, const at::Tensor& input, const std::optional<at::Tensor>& bias,
              double eps) {
  ctx->saved_data["eps"] = eps;
  ctx->saved_data["memory_format"] = static_cast<int64_t>(input.suggest_memory_format());
  if (present(bias)) ctx->saved_data["bias_dtype"] = static_cast<int64_t>(bias->scalar_type());
}

// Which gradients the engine asks for. needs_input_grad counts only arguments that were given.
struct Needs {
  Needs(AutogradContext* ctx, bool has_weight)
      : input(ctx->needs_input_grad(0)),
        weight(has_weight && ctx->needs_input_grad(1)),
        bias(ctx->saved_data.count("bias_dtype") != 0 &&
             ctx->needs_input_grad(has_weight ? 2 : 1)) {}
  bool input;
  bool weight;
  bool bias;
};

// The backward operator returns both parameter gradients in weight's dtype. Where bias is the wider
// of the two, a widened weight keeps the gradient of bias whole; autograd rounds that of weight.
at::Tensor widened_for_bias(AutogradContext* ctx, const at::Tensor& weight) {
  const auto bias = ctx->saved_data.find("bias_dtype");
  if (!weight.defined() || bias == ctx->saved_data.end()) return weight;
  const auto dtype = static_cast<at::ScalarType>(bias->second.toInt());
  return dtype == at::toOpMathType(weight.scalar_type()) ? weight.to(dtype) : weight;
}

// The gradients as a Function returns them: one per argument of forward, undefined where none is.
variable_list as_gradients(const ThreeTensors& gradients, const Needs& needs) {
  const auto& [input, weight, bias] = gradients;
  return {needs.input ? input : at::Tensor(), needs.weight ? weight : at::Tensor(),
          needs.bias ? bias : at::Tensor(), at::Tensor()};
}

variable_list call_backward_operator(AutogradContext* ctx, const Needs& needs,
                                     const at::Tensor& grad_output, const at::Tensor& input,
                                     const at::Tensor& weight, const at::Tensor& mean,
                                     const at::Tensor& invstd, bool training) {
  // There is nothing to record: second derivatives go through the composite.
  at::AutoDispatchBelowAutograd guard;
  const auto optional = [](const at::Tensor& tensor) {
    return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
  };
  return as_gradients(ops::batch_norm_backward(
                          grad_output, optional(input), optional(widened_for_bias(ctx, weight)),
                          mean, invstd, training, needs.input, needs.weight, needs.bias),
                      needs);
}

// Everything about a call that is not differentiable. Passed by one pointer, since each tensor
// argument of a Function becomes an edge of the graph, and each output one more.
struct TrainArguments {
  const std::optional<at::Tensor>& running_mean;
  const std::optional<at::Tensor>& running_var;
  const std::optional<at::Tensor>& num_batches_tracked;
  std::optional<double> momentum;
  double eps;
  at::Tensor save_mean;    // result
  at::Tensor save_invstd;  // result
};

class TrainFunction : public torch::autograd::Function<TrainFunction> {
 public:
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input,
                            const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias, TrainArguments* rest) {
    // Not below ADInplaceOrView: the version counters of the running statistics have to be bumped.
    at::AutoDispatchBelowAutograd guard;
    auto [output, mean, invstd] =
        ops::batch_norm_train(input, weight, bias, rest->running_mean, rest->running_var,
                              rest->num_batches_tracked, rest->momentum, rest->eps);
    ctx->save_for_backward({input, or_undefined(weight), mean, invstd});
    ctx->set_materialize_grads(false);
    remember(ctx, input, bias, rest->eps);
    rest->save_mean = mean;
    rest->save_invstd = invstd;
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    const at::Tensor& grad_output = grad_outputs[0];
    if (!grad_output.defined()) return variable_list(4);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& input = saved[0];
    const at::Tensor& weight = saved[1];
    const Needs needs(ctx, weight.defined());
    if (at::GradMode::is_enabled()) {
      // The statistics are functions of the input here; the saved ones are constants.
      return as_gradients(composite::train_backward(grad_output, input, weight,
                                                    ctx->saved_data.at("eps").toDouble(),
                                                    needs.input, needs.weight, needs.bias),
                          needs);
    }
    return call_backward_operator(ctx, needs, grad_output, input, weight, saved[2], saved[3],
                                  /*training=*/true);
  }
};

struct InferenceArguments {
  const at::Tensor& running_mean;
  const at::Tensor& running_var;
  double eps;
  at::Tensor save_mean;    // result
  at::Tensor save_invstd;  // result
};

class InferenceFunction : public torch::autograd::Function<InferenceFunction> {
 public:
  static constexpr bool is_traceable = true;

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& input,
                            const std::optional<at::Tensor>& weight,
                            const std::optional<at::Tensor>& bias, InferenceArguments* rest) {
    at::AutoDispatchBelowAutograd guard;
    auto [output, mean, invstd] = ops::batch_norm_inference(input, weight, bias, rest->running_mean,
                                                            rest->running_var, rest->eps);
    // The input is kept alive for the gradient of weight, or where no memory format says how
    // grad_input is to lie. The statistics are copies: the running ones may be updated before
    // backward.
    const bool needs_input = (present(weight) && weight->requires_grad()) ||
                             !input.is_contiguous(input.suggest_memory_format());
    ctx->save_for_backward(
        {needs_input ? input : at::Tensor(), or_undefined(weight), mean, invstd});
    ctx->set_materialize_grads(false);
    remember(ctx, input, bias, rest->eps);
    rest->save_mean = mean;
    rest->save_invstd = invstd;
    return output;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grad_outputs) {
    at::Tensor grad_output = grad_outputs[0];
    if (!grad_output.defined()) return variable_list(4);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& input = saved[0];
    const at::Tensor& weight = saved[1];
    const Needs needs(ctx, weight.defined());
    if (!input.defined()) {
      // grad_input takes the input's memory format, which only grad_output can carry here.
      grad_output = grad_output.contiguous(
          static_cast<at::MemoryFormat>(ctx->saved_data.at("memory_format").toInt()));
    }
    if (at::GradMode::is_enabled()) {
      return as_gradients(
          composite::inference_backward(grad_output, input, weight, saved[2], saved[3], needs.input,
                                        needs.weight, needs.bias),
          needs);
    }
    return call_backward_operator(ctx, needs, grad_output, input, weight, saved[2], saved[3],
                                  /*training=*/false);
  }
};

bool has_tangent(const at::Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(/*level=*/0).defined();
}

bool has_tangent(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && has_tangent(*tensor);
}

bool inside_transform() {
  return c10::impl::tls_is_dispatch_key_included(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
}

// A Function knows neither forward-mode tangents nor the transforms of torch.func.
template <typename... Tensors>
bool wants_composite(const Tensors&... tensors) {
  return inside_transform() || (has_tangent(tensors) || ...);
}

// Buffers that a function under torch.func captured can't be updated from inside it.
void refuse_updates(const std::optional<at::Tensor>& running_mean,
                    const std::optional<at::Tensor>& num_batches_tracked) {
  TORCH_CHECK(!present(running_mean) && !present(num_batches_tracked),
              "batch_norm: training can't update running statistics in place under a torch.func "
              "transform; pass none (track_running_stats=False), or use training=False");
}

// An undefined input has no gradient; the kernel says what is wrong with it.
bool wants_gradient(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                    const std::optional<at::Tensor>& bias) {
  return input.defined() && torch::autograd::compute_requires_grad(input, weight, bias);
}

template <typename Statistics>
void refuse_tangents(const Statistics& running_mean, const Statistics& running_var) {
  TORCH_CHECK(!has_tangent(running_mean) && !has_tangent(running_var),
              "batch_norm: running_mean and running_var must not carry a forward-mode tangent: "
              "running statistics are not differentiable");
}

// The operators as composites of ATen's, for the callers that a Function and a kernel can't serve.
ThreeTensors batch_norm_train_composite(const at::Tensor& input,
                                        const std::optional<at::Tensor>& weight,
                                        const std::optional<at::Tensor>& bias,
                                        const std::optional<at::Tensor>& running_mean,
                                        const std::optional<at::Tensor>& running_var,
                                        const std::optional<at::Tensor>& num_batches_tracked,
                                        std::optional<double> momentum, double eps) {
  if (inside_transform()) refuse_updates(running_mean, num_batches_tracked);
  refuse_tangents(running_mean, running_var);
  check_train(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps);
  auto results = composite::train(input, weight, bias, eps);
  composite::update_running(input, std::get<1>(results), running_mean, running_var,
                            num_batches_tracked, momentum);
  return results;
}

ThreeTensors batch_norm_inference_composite(const at::Tensor& input,
                                            const std::optional<at::Tensor>& weight,
                                            const std::optional<at::Tensor>& bias,
                                            const at::Tensor& running_mean,
                                            const at::Tensor& running_var, double eps) {
  refuse_tangents(running_mean, running_var);
  check_inference(input, weight, bias, running_mean, running_var, eps);
  return composite::inference(input, weight, bias, running_mean, running_var, eps);
}

ThreeTensors batch_norm_train_autograd(const at::Tensor& input,
                                       const std::optional<at::Tensor>& weight,
                                       const std::optional<at::Tensor>& bias,
                                       const std::optional<at::Tensor>& running_mean,
                                       const std::optional<at::Tensor>& running_var,
                                       const std::optional<at::Tensor>& num_batches_tracked,
                                       std::optional<double> momentum, double eps) {
  if (wants_composite(input, weight, bias, running_mean, running_var)) {
    return batch_norm_train_composite(input, weight, bias, running_mean, running_var,
                                      num_batches_tracked, momentum, eps);
  }
  TrainArguments rest{running_mean, running_var, num_batches_tracked, momentum, eps, {}, {}};
  if (wants_gradient(input, weight, bias)) {
    at::Tensor output = TrainFunction::apply(input, weight, bias, &rest);
    return {std::move(output), std::move(rest.save_mean), std::move(rest.save_invstd)};
  }
  at::AutoDispatchBelowAutograd guard;
  return ops::batch_norm_train(input, weight, bias, running_mean, running_var, num_batches_tracked,
                               momentum, eps);
}

ThreeTensors batch_norm_inference_autograd(const at::Tensor& input,
                                           const std::optional<at::Tensor>& weight,
                                           const std::optional<at::Tensor>& bias,
                                           const at::Tensor& running_mean,
                                           const at::Tensor& running_var, double eps) {
  if (wants_composite(input, weight, bias, running_mean, running_var)) {
    return batch_norm_inference_composite(input, weight, bias, running_mean, running_var, eps);
  }
  InferenceArguments rest{running_mean, running_var, eps, {}, {}};
  if (wants_gradient(input, weight, bias)) {
    at::Tensor output = InferenceFunction::apply(input, weight, bias, &rest);
    return {std::move(output), std::move(rest.save_mean), std::move(rest.save_invstd)};
  }
  at::AutoDispatchBelowAutograd guard;
  return ops::batch_norm_inference(input, weight, bias, running_mean, running_var, eps);
}

ThreeTensors batch_norm_train_vmap(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                   const std::optional<at::Tensor>& bias,
                                   const std::optional<at::Tensor>& running_mean,
                                   const std::optional<at::Tensor>& running_var,
                                   const std::optional<at::Tensor>& num_batches_tracked,
                                   std::optional<double> momentum, double eps) {
  refuse_updates(running_mean, num_batches_tracked);
  return batch_norm_train_composite(input, weight, bias, running_mean, running_var,
                                    num_batches_tracked, momentum, eps);
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

// Under vmap the composite sees one example at a time, and ATen's operators do the batching.
TORCH_LIBRARY_IMPL(torchbn, FuncTorchBatched, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_vmap));
  m.impl("batch_norm_inference", TORCH_FN(batch_norm_inference_composite));
}

TORCH_LIBRARY_IMPL(torchbn, ADInplaceOrView, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_version_bump));
}

}  // namespace torchbn
