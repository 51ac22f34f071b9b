// Every schema of the library, and the public operators' common road.

#include <vector>

#include <torch/library.h>
#include <torchbn/batch_norm.h>

#include "checks.h"
#include "operators.h"

namespace torchbn {

namespace {

// batch_norm is a composite: autograd, compilers and exporters see the two operators below it,
// and the one for evaluation mutates nothing.
at::Tensor batch_norm_composite(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                const std::optional<at::Tensor>& bias,
                                const std::optional<at::Tensor>& running_mean,
                                const std::optional<at::Tensor>& running_var, bool training,
                                std::optional<double> momentum, double eps,
                                const std::optional<at::Tensor>& num_batches_tracked) {
  check_batch_norm(input, running_mean, running_var, training);
  if (training) {
    return std::get<0>(ops::batch_norm_train(input, weight, bias, running_mean, running_var,
                                             num_batches_tracked, momentum, eps));
  }
  return std::get<0>(
      ops::batch_norm_inference(input, weight, bias, *running_mean, *running_var, eps));
}

}  // namespace

TORCH_LIBRARY(torchbn, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};

  // Batch normalization as in torch.batch_norm; momentum=None is the cumulative average.
  m.def(
      "batch_norm(Tensor input, Tensor? weight=None, Tensor? bias=None, "
      "Tensor(a!)? running_mean=None, Tensor(b!)? running_var=None, bool training=False, "
      "float? momentum=0.1, float eps=1e-05, *, Tensor(c!)? num_batches_tracked=None) -> Tensor",
      tags);

  // Training: normalises with the batch's statistics, updates the running ones and the counter.
  // save_mean and save_invstd are float64 for every input type.
  m.def(
      "batch_norm_train(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean, "
      "Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked, float? momentum, float eps) "
      "-> (Tensor output, Tensor save_mean, Tensor save_invstd)",
      tags);

  // Evaluation: normalises with the running statistics; returns copies of them for backward.
  m.def(
      "batch_norm_inference(Tensor input, Tensor? weight, Tensor? bias, Tensor running_mean, "
      "Tensor running_var, float eps) "
      "-> (Tensor output, Tensor save_mean, Tensor save_invstd)",
      tags);

  // Gradients of both. input may be absent in evaluation when no gradient of weight is needed.
  // A gradient that is not needed comes back as a tensor without elements.
  m.def(
      "batch_norm_backward(Tensor grad_output, Tensor? input, Tensor? weight, Tensor mean, "
      "Tensor invstd, bool training, bool need_input, bool need_weight, bool need_bias) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)",
      tags);
}

TORCH_LIBRARY_IMPL(torchbn, CompositeImplicitAutograd, m) {
  m.impl("batch_norm", TORCH_FN(batch_norm_composite));
}

// vmap does not decompose custom composites by itself.
TORCH_LIBRARY_IMPL(torchbn, FuncTorchBatched, m) {
  m.impl("batch_norm", TORCH_FN(batch_norm_composite));
}

// Nor does the dispatcher where it resolves lazy negations, in inference mode.
TORCH_LIBRARY_IMPL(torchbn, Negative, m) {
  m.impl("batch_norm", TORCH_FN(batch_norm_composite));
}

// Through the dispatcher, like every other caller, so that a composite registered for a transform
// is found from C++ too.
at::Tensor batch_norm(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                      const std::optional<at::Tensor>& bias,
                      const std::optional<at::Tensor>& running_mean,
                      const std::optional<at::Tensor>& running_var, bool training,
                      std::optional<double> momentum, double eps,
                      const std::optional<at::Tensor>& num_batches_tracked) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("torchbn::batch_norm", "")
                             .typed<decltype(batch_norm_composite)>();
  return op.call(input, weight, bias, running_mean, running_var, training, momentum, eps,
                 num_batches_tracked);
}

}  // namespace torchbn
