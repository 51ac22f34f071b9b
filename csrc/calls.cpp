#include "calls.h"

#include "optional_tensor.h"
#include "outputs.h"

namespace torchbn {

namespace {

DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      TORCH_INTERNAL_ASSERT(false, "unchecked dtype ", tensor.scalar_type());
  }
}

// The tensor, whose memory may have been freed under it (untyped_storage().resize_(0)): its data
// pointer would say no more than that, to us that the argument is absent.
const at::Tensor& with_memory(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.unsafeGetTensorImpl()->storage_initialized(), "batch_norm: the memory of ",
              name, " has been freed");
  return tensor;
}

ChannelVector read(const char* name, const at::Tensor& vector) {
  return {with_memory(name, vector).const_data_ptr(), vector.stride(0), dtype_of(vector)};
}

ChannelVector read(const char* name, const std::optional<at::Tensor>& vector) {
  return present(vector) ? read(name, *vector) : ChannelVector{};
}

MutableChannelVector write(const char* name, const at::Tensor& vector) {
  return {with_memory(name, vector).mutable_data_ptr(), vector.stride(0), dtype_of(vector)};
}

MutableChannelVector write(const char* name, const std::optional<at::Tensor>& vector) {
  return present(vector) ? write(name, *vector) : MutableChannelVector{};
}

// How kernels see the tensor where it lies. They can work on it if it is dense, whatever the order
// of its axes: those outside of the channels in memory make the batch, those within them a plane.
std::optional<Extent> native_extent(const at::Tensor& tensor) {
  if (!tensor.is_non_overlapping_and_dense()) return std::nullopt;
  Extent extent{1, tensor.size(1), 1};
  if (extent.channels == 1) {  // one plane, whatever stride that axis has
    extent.spatial = tensor.numel();
    return extent;
  }
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    if (axis == 1) continue;
    const bool within = tensor.stride(axis) < tensor.stride(1);
    (within ? extent.spatial : extent.batch) *= tensor.size(axis);
  }
  return extent;
}

// The tensor itself where kernels can work on it, else a copy with the strides of an output.
at::Tensor to_native(const at::Tensor& tensor) {
  return native_extent(tensor) ? tensor : allocate_like(tensor).copy_(tensor);
}

// The tensor itself where each of its elements lies as in `like`, else a copy of which that is
// true.
at::Tensor to_layout_of(const at::Tensor& like, const at::Tensor& tensor) {
  for (int64_t axis = 0; axis < tensor.dim(); ++axis) {
    if (tensor.size(axis) > 1 && tensor.stride(axis) != like.stride(axis))
      return allocate_like(like).copy_(tensor);
  }
  return tensor;
}

}  // namespace

template <typename Problem>
ForwardCall<Problem>::ForwardCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias, double eps)
    : input_(to_native(with_memory("input", input))), outputs_(allocate_forward(input)) {
  problem_.extent = *native_extent(input_);
  problem_.dtype = dtype_of(input_);
  problem_.input = input_.const_data_ptr();
  problem_.output = outputs_.output.mutable_data_ptr();
  problem_.weight = read("weight", weight);
  problem_.bias = read("bias", bias);
  problem_.eps = eps;
  problem_.save_mean = outputs_.save_mean.mutable_data_ptr<double>();
  problem_.save_invstd = outputs_.save_invstd.mutable_data_ptr<double>();
}

template <typename Problem>
std::tuple<at::Tensor, at::Tensor, at::Tensor> ForwardCall<Problem>::results() && {
  if (empty()) {
    outputs_.save_mean.zero_();
    outputs_.save_invstd.zero_();
  }
  return {std::move(outputs_.output), std::move(outputs_.save_mean),
          std::move(outputs_.save_invstd)};
}

template class ForwardCall<TrainProblem>;
template class ForwardCall<InferenceProblem>;

TrainCall::TrainCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                     const std::optional<at::Tensor>& bias,
                     const std::optional<at::Tensor>& running_mean,
                     const std::optional<at::Tensor>& running_var,
                     const std::optional<at::Tensor>& num_batches_tracked,
                     std::optional<double> momentum, double eps)
    : ForwardCall(input, weight, bias, eps) {
  RunningStatistics& running = problem_.running;
  running.mean = write("running_mean", running_mean);
  running.var = write("running_var", running_var);
  if (present(num_batches_tracked))
    running.num_batches_tracked =
        with_memory("num_batches_tracked", *num_batches_tracked).mutable_data_ptr<int64_t>();
  running.momentum = momentum.value_or(0);
  running.cumulative = !momentum.has_value();
}

InferenceCall::InferenceCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                             const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                             const at::Tensor& running_var, double eps)
    : ForwardCall(input, weight, bias, eps) {
  problem_.running_mean = read("running_mean", running_mean);
  problem_.running_var = read("running_var", running_var);
}

BackwardCall::BackwardCall(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
                           const std::optional<at::Tensor>& weight, const at::Tensor& mean,
                           const at::Tensor& invstd, bool training, bool need_input,
                           bool need_weight, bool need_bias)
    : mean_(with_memory("mean", mean).contiguous()),
      invstd_(with_memory("invstd", invstd).contiguous()),
      gradients_(
          allocate_gradients(grad_output, input, weight, need_input, need_weight, need_bias)) {
  const bool has_input = present(input);
  with_memory("grad_output", grad_output);
  const at::Tensor& data = has_input ? with_memory("input", *input) : grad_output;
  const at::Tensor native = to_native(data);
  grad_output_ = has_input ? to_layout_of(native, grad_output) : native;
  problem_.extent = *native_extent(native);
  problem_.dtype = dtype_of(native);
  problem_.training = training;
  problem_.grad_output = grad_output_.const_data_ptr();
  if (has_input) {
    input_ = native;
    problem_.input = input_.const_data_ptr();
  }
  problem_.weight = read("weight", weight);
  problem_.mean = mean_.const_data_ptr<double>();
  problem_.invstd = invstd_.const_data_ptr<double>();
  if (need_input) problem_.grad_input = gradients_.input.mutable_data_ptr();
  if (need_weight) problem_.grad_weight = write("grad_weight", gradients_.weight);
  if (need_bias) problem_.grad_bias = write("grad_bias", gradients_.bias);
}

bool BackwardCall::empty() const {
  return problem_.extent.numel() == 0 ||
         (problem_.grad_input == nullptr && !problem_.grad_weight.present() &&
          !problem_.grad_bias.present());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> BackwardCall::results() && {
  if (problem_.extent.numel() == 0) {
    gradients_.weight.zero_();
    gradients_.bias.zero_();
  }
  return {std::move(gradients_.input), std::move(gradients_.weight), std::move(gradients_.bias)};
}

}  // namespace torchbn
