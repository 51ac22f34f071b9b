#include "calls.h"

#include <c10/util/SmallVector.h>

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

// Whether the axes, slowest first, follow each other in memory without gaps.
bool is_dense(const at::Tensor& tensor, c10::ArrayRef<int64_t> axes) {
  int64_t expected = 1;
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    if (tensor.size(*axis) == 1) continue;
    if (tensor.stride(*axis) != expected) return false;
    expected *= tensor.size(*axis);
  }
  return true;
}

bool is_channels_last(const at::Tensor& tensor) {
  c10::SmallVector<int64_t, 5> axes = {0};
  for (int64_t axis = 2; axis < tensor.dim(); ++axis) axes.push_back(axis);
  axes.push_back(1);
  return is_dense(tensor, axes);
}

// The layout in which kernels can work on the tensor where it lies, if there is one.
std::optional<Extent> native_extent(const at::Tensor& tensor) {
  Extent extent{tensor.size(0), tensor.size(1), 1, Layout::kChannelsFirst};
  for (int64_t axis = 2; axis < tensor.dim(); ++axis) extent.spatial *= tensor.size(axis);
  if (tensor.is_contiguous()) {
    // Where both layouts are the same memory, take the one with the longer runs.
    if (extent.channels == 1) return Extent{1, 1, extent.count(), Layout::kChannelsFirst};
    if (extent.spatial == 1) extent.layout = Layout::kChannelsLast;
    return extent;
  }
  if (!is_channels_last(tensor)) return std::nullopt;
  extent.layout = Layout::kChannelsLast;
  return extent;
}

// The tensor itself where kernels can work on it, else a copy on which they can.
at::Tensor to_native(const at::Tensor& tensor) {
  return native_extent(tensor) ? tensor : tensor.contiguous(tensor.suggest_memory_format());
}

// The tensor itself where it lies as `like` does, else a copy that does.
at::Tensor to_layout_of(const at::Tensor& like, const at::Tensor& tensor) {
  const auto extent = native_extent(tensor);
  if (extent && *extent == *native_extent(like)) return tensor;
  return allocate_like(like).copy_(tensor);
}

// What a kernel fills for `output`, which was allocated with the strides of an input that had to be
// copied to `native`: the output itself where nothing had to be copied.
at::Tensor native_output(const at::Tensor& output, const at::Tensor& input,
                         const at::Tensor& native) {
  return native.is_same(input) ? output : allocate_like(native);
}

void copy_if_apart(const at::Tensor& output, const at::Tensor& native) {
  if (!output.is_same(native)) output.copy_(native);
}

}  // namespace

template <typename Problem>
ForwardCall<Problem>::ForwardCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& bias, double eps)
    : input_(to_native(with_memory("input", input))), outputs_(allocate_forward(input)) {
  native_output_ = native_output(outputs_.output, input, input_);
  problem_.extent = *native_extent(input_);
  problem_.dtype = dtype_of(input_);
  problem_.input = input_.const_data_ptr();
  problem_.output = native_output_.mutable_data_ptr();
  problem_.weight = read("weight", weight);
  problem_.bias = read("bias", bias);
  problem_.eps = eps;
  problem_.save_mean = outputs_.save_mean.mutable_data_ptr<double>();
  problem_.save_invstd = outputs_.save_invstd.mutable_data_ptr<double>();
}

template <typename Problem>
std::tuple<at::Tensor, at::Tensor, at::Tensor> ForwardCall<Problem>::results() {
  copy_if_apart(outputs_.output, native_output_);
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
  if (need_input) {
    native_grad_input_ = native_output(gradients_.input, data, native);
    problem_.grad_input = native_grad_input_.mutable_data_ptr();
  }
  if (need_weight) problem_.grad_weight = write("grad_weight", gradients_.weight);
  if (need_bias) problem_.grad_bias = write("grad_bias", gradients_.bias);
}

bool BackwardCall::empty() const {
  return problem_.extent.numel() == 0 ||
         (problem_.grad_input == nullptr && !problem_.grad_weight.present() &&
          !problem_.grad_bias.present());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> BackwardCall::results() {
  if (native_grad_input_.defined()) copy_if_apart(gradients_.input, native_grad_input_);
  if (problem_.extent.numel() == 0) {
    gradients_.weight.zero_();
    gradients_.bias.zero_();
  }
  return {std::move(gradients_.input), std::move(gradients_.weight), std::move(gradients_.bias)};
}

}  // namespace torchbn
