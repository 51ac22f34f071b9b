#include "autograd/transforms.h"

#include <torch/library.h>

#include "autograd/formulas.h"
#include "checks.h"
#include "optional_tensor.h"

namespace torchbn::transforms {

namespace {

using ops::ThreeTensors;

template <typename Statistics>
void refuse_tangents(const Statistics& running_mean, const Statistics& running_var) {
  TORCH_CHECK(!has_tangent(running_mean) && !has_tangent(running_var),
              "batch_norm: running_mean and running_var must not carry a forward-mode tangent: "
              "running statistics are not differentiable");
}

// Buffers that a function under torch.func captured can't be updated from inside it.
void refuse_updates(const std::optional<at::Tensor>& running_mean,
                    const std::optional<at::Tensor>& num_batches_tracked) {
  TORCH_CHECK(
      !present(running_mean) && !present(num_batches_tracked),
      "batch_norm: training can't update running statistics in place under a torch.func "
      "transform; pass none (track_running_stats=False), use training=False, or pass the "
      "buffers as arguments and wrap the function in torch.func.functionalize, inside of the "
      "other transforms: grad(functionalize(f))");
}

ThreeTensors train_and_update(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                              const std::optional<at::Tensor>& bias,
                              const std::optional<at::Tensor>& running_mean,
                              const std::optional<at::Tensor>& running_var,
                              const std::optional<at::Tensor>& num_batches_tracked,
                              std::optional<double> momentum, double eps) {
  refuse_tangents(running_mean, running_var);
  check_train(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps);
  const formulas::Trained batch = formulas::train(input, weight, bias, eps);
  formulas::update_running(input, batch, running_mean, running_var, num_batches_tracked, momentum);
  // The saved statistics are not differentiable, as everywhere else.
  return {batch.output, batch.mean.detach(), batch.invstd.detach()};
}

// Inside a transform by definition, whatever the thread says while vmap calls.
ThreeTensors batch_norm_train_vmap(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                   const std::optional<at::Tensor>& bias,
                                   const std::optional<at::Tensor>& running_mean,
                                   const std::optional<at::Tensor>& running_var,
                                   const std::optional<at::Tensor>& num_batches_tracked,
                                   std::optional<double> momentum, double eps) {
  refuse_updates(running_mean, num_batches_tracked);
  return train_and_update(input, weight, bias, running_mean, running_var, num_batches_tracked,
                          momentum, eps);
}

// torch.func.functionalize replaces in-place operators of ATen's by pure ones and carries the new
// values back to the buffers; what a kernel of ours writes it would not see. Only the public
// operator is registered: compilers and exporters, which functionalize by other means, then still
// meet batch_norm_train with its kernels.
at::Tensor batch_norm_functionalize(const at::Tensor& input,
                                    const std::optional<at::Tensor>& weight,
                                    const std::optional<at::Tensor>& bias,
                                    const std::optional<at::Tensor>& running_mean,
                                    const std::optional<at::Tensor>& running_var, bool training,
                                    std::optional<double> momentum, double eps,
                                    const std::optional<at::Tensor>& num_batches_tracked) {
  check_batch_norm(input, running_mean, running_var, training);
  if (training) {
    return std::get<0>(train_and_update(input, weight, bias, running_mean, running_var,
                                        num_batches_tracked, momentum, eps));
  }
  return std::get<0>(
      ops::batch_norm_inference(input, weight, bias, *running_mean, *running_var, eps));
}

}  // namespace

ThreeTensors batch_norm_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                              const std::optional<at::Tensor>& bias,
                              const std::optional<at::Tensor>& running_mean,
                              const std::optional<at::Tensor>& running_var,
                              const std::optional<at::Tensor>& num_batches_tracked,
                              std::optional<double> momentum, double eps) {
  if (inside_transform()) refuse_updates(running_mean, num_batches_tracked);
  return train_and_update(input, weight, bias, running_mean, running_var, num_batches_tracked,
                          momentum, eps);
}

ThreeTensors batch_norm_inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias,
                                  const at::Tensor& running_mean, const at::Tensor& running_var,
                                  double eps) {
  refuse_tangents(running_mean, running_var);
  check_inference(input, weight, bias, running_mean, running_var, eps);
  return formulas::inference(input, weight, bias, running_mean, running_var, eps);
}

// Under vmap the formulas see one example at a time, and ATen's operators do the batching.
TORCH_LIBRARY_IMPL(torchbn, FuncTorchBatched, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_vmap));
  m.impl("batch_norm_inference", TORCH_FN(batch_norm_inference));
}

TORCH_LIBRARY_IMPL(torchbn, Functionalize, m) {
  m.impl("batch_norm", TORCH_FN(batch_norm_functionalize));
}

}  // namespace torchbn::transforms
