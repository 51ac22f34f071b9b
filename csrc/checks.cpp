#include "checks.h"

#include <cmath>
#include <initializer_list>
#include <string>

#include <ATen/OpMathType.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "memory_overlap.h"
#include "optional_tensor.h"

namespace torchbn {

namespace {

// As Python has it: "float32".
std::string name_of(at::ScalarType dtype) {
  return std::string(c10::getDtypeNames(dtype).first);
}

// A tensor, as the messages name it. Those of the forward operators are batch_norm's.
struct Argument {
  const char* name;
  const at::Tensor& tensor;
  const char* op = "batch_norm";
};

void check_defined(const Argument& a) {
  TORCH_CHECK(a.tensor.defined(),
              fmt::format("{}: {} must be a tensor, but is None", a.op, a.name));
}

void check_dense(const Argument& a) {
  torchbn::check_dense(a.name, a.tensor, a.op);
}

void check_device(const Argument& a, const Argument& like) {
  TORCH_CHECK(a.tensor.device() == like.tensor.device(),
              fmt::format("{}: {} must be on {}'s device, {}, but is on {}", a.op, a.name,
                          like.name, like.tensor.device().str(), a.tensor.device().str()));
}

// input or grad_output
void check_data(const Argument& data) {
  check_defined(data);
  check_dense(data);
  const at::ScalarType dtype = data.tensor.scalar_type();
  TORCH_CHECK(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
      fmt::format("{}: {} must be float32, float64, bfloat16 or float16, but is {}", data.op,
                  data.name, name_of(dtype)));
  TORCH_CHECK(data.tensor.dim() >= 2,
              fmt::format("{}: {} must have shape (N, C, ...) with at least 2 dimensions, but has "
                          "shape {}",
                          data.op, data.name, c10::str(data.tensor.sym_sizes())));
}

void check_per_channel(const Argument& a, const Argument& data) {
  check_dense(a);
  check_device(a, data);
  TORCH_CHECK(a.tensor.dim() == 1,
              fmt::format("{}: {} must have one dimension, [C], but has shape {}", a.op, a.name,
                          c10::str(a.tensor.sym_sizes())));
  TORCH_SYM_CHECK(a.tensor.sym_size(0).sym_eq(data.tensor.sym_size(1)),
                  fmt::format("{}: {} must have one value per channel of {}, whose shape is {} "
                              "(channels are dimension 1), but has shape {}",
                              a.op, a.name, data.name, c10::str(data.tensor.sym_sizes()),
                              c10::str(a.tensor.sym_sizes())));
}

// weight, bias, running_mean, running_var
void check_parameter(const Argument& a, const Argument& data) {
  const at::ScalarType dtype = data.tensor.scalar_type();
  const at::ScalarType wide = at::toOpMathType(dtype);
  TORCH_CHECK(a.tensor.scalar_type() == dtype || a.tensor.scalar_type() == wide,
              fmt::format("{}: {} must be {}{} for {} {}, but is {}", a.op, a.name, name_of(dtype),
                          wide == dtype ? "" : fmt::format(" or {}", name_of(wide)), name_of(dtype),
                          data.name, name_of(a.tensor.scalar_type())));
  check_per_channel(a, data);
}

void check_running(const Argument& a, const Argument& input) {
  check_defined(a);
  check_parameter(a, input);
  TORCH_CHECK(!a.tensor.requires_grad(),
              fmt::format("{}: {} must not require grad: running statistics are not differentiable "
                          "(the order is input, weight, bias, running_mean, running_var)",
                          a.op, a.name));
}

void check_eps(double eps) {
  TORCH_CHECK(std::isfinite(eps) && eps >= 0,
              fmt::format("batch_norm: eps must be finite and not negative, but is {}", eps));
}

void check_counter(const Argument& a, const Argument& input) {
  check_dense(a);
  check_device(a, input);
  TORCH_CHECK(
      a.tensor.scalar_type() == at::kLong && a.tensor.dim() == 0,
      fmt::format("{}: {} must be an int64 scalar (0-dim tensor), but is {} of shape {}", a.op,
                  a.name, name_of(a.tensor.scalar_type()), c10::str(a.tensor.sym_sizes())));
}

void check_more_than_one_value(const at::Tensor& input) {
  c10::SymInt count = input.sym_size(0);
  for (int64_t d = 2; d < input.dim(); ++d) count = count * input.sym_size(d);
  // Without channels there is no value at all: an empty batch.
  TORCH_SYM_CHECK(count.sym_ne(1).sym_or(input.sym_size(1).sym_eq(0)),
                  fmt::format("batch_norm: training needs more than one value per channel, but "
                              "input has shape {}; use a larger batch, or training=False",
                              c10::str(input.sym_sizes())));
}

struct Named {
  const char* name;
  const std::optional<at::Tensor>& tensor;
};

bool has_symbolic_geometry(const at::Tensor& tensor) {
  return tensor.unsafeGetTensorImpl()->has_symbolic_sizes_strides();
}

// What training writes must not share memory with anything that it writes or reads.
void check_memory(std::initializer_list<Named> written, std::initializer_list<Named> read) {
  for (auto target = written.begin(); target != written.end(); ++target) {
    if (!present(target->tensor)) continue;
    const at::Tensor& tensor = *target->tensor;
    // The kernels would have written by the time the version counter objects.
    TORCH_CHECK(!tensor.is_inference() || c10::InferenceMode::is_enabled(),
                fmt::format("batch_norm: {} is an inference tensor, which can't be updated in "
                            "place outside inference mode; clone it first",
                            target->name));
    if (has_symbolic_geometry(tensor)) continue;
    TORCH_CHECK(!overlaps_itself(tensor),
                fmt::format("batch_norm: {} is updated in place and must not overlap itself, but "
                            "is expanded (shape {}, stride {})",
                            target->name, c10::str(tensor.sym_sizes()), tensor.stride(0)));
    const auto check = [&](const Named& other) {
      if (!present(other.tensor) || has_symbolic_geometry(*other.tensor)) return;
      TORCH_CHECK(!overlap(tensor, *other.tensor),
                  fmt::format("batch_norm: {} is updated in place and must not share memory with "
                              "{}",
                              target->name, other.name));
    };
    for (auto other = target + 1; other != written.end(); ++other) check(*other);
    for (const Named& other : read) check(other);
  }
}

void check_affine(const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
                  const Argument& input) {
  if (present(weight)) check_parameter({"weight", *weight}, input);
  if (present(bias)) check_parameter({"bias", *bias}, input);
}

void check_saved(const Argument& saved, const Argument& data) {
  TORCH_CHECK(saved.tensor.defined() && saved.tensor.scalar_type() == at::kDouble,
              fmt::format("{}: {} must be float64, but is {}", saved.op, saved.name,
                          saved.tensor.defined() ? name_of(saved.tensor.scalar_type()) : "None"));
  check_per_channel(saved, data);
}

}  // namespace

void check_dense(const char* name, const at::Tensor& tensor, const char* op) {
  const char* const kind = tensor.is_quantized() ? "quantized"
                           : tensor.is_nested()  ? "nested"
                                                 : nullptr;
  TORCH_CHECK(kind == nullptr,
              fmt::format("{}: {} must be a dense tensor, but is {}", op, name, kind));
  TORCH_CHECK(tensor.layout() == at::kStrided,
              fmt::format("{}: {} must be a dense (strided) tensor, but its layout is {}", op, name,
                          c10::str(tensor.layout())));
}

void check_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                 const std::optional<at::Tensor>& bias,
                 const std::optional<at::Tensor>& running_mean,
                 const std::optional<at::Tensor>& running_var,
                 const std::optional<at::Tensor>& num_batches_tracked,
                 std::optional<double> momentum, double eps) {
  const Argument data{"input", input};
  check_data(data);
  check_affine(weight, bias, data);
  TORCH_CHECK(present(running_mean) == present(running_var),
              fmt::format("batch_norm: running_mean and running_var must be given together, but "
                          "{} is None",
                          present(running_mean) ? "running_var" : "running_mean"));
  if (present(running_mean)) check_running({"running_mean", *running_mean}, data);
  if (present(running_var)) check_running({"running_var", *running_var}, data);
  if (present(num_batches_tracked))
    check_counter({"num_batches_tracked", *num_batches_tracked}, data);
  TORCH_CHECK(!momentum.has_value() || std::isfinite(*momentum),
              fmt::format("batch_norm: momentum must be finite or None, but is {}", *momentum));
  TORCH_CHECK(momentum.has_value() || !present(running_mean) || present(num_batches_tracked),
              "batch_norm: momentum=None (cumulative average) needs num_batches_tracked, but it is "
              "None");
  check_eps(eps);
  check_more_than_one_value(input);
  check_memory({{"running_mean", running_mean},
                {"running_var", running_var},
                {"num_batches_tracked", num_batches_tracked}},
               {{"input", input}, {"weight", weight}, {"bias", bias}});
}

void check_batch_norm(const at::Tensor& input, const std::optional<at::Tensor>& running_mean,
                      const std::optional<at::Tensor>& running_var, bool training) {
  check_defined({"input", input});
  TORCH_CHECK(training || (present(running_mean) && present(running_var)),
              "batch_norm: evaluation (training=False) normalises with running_mean and "
              "running_var and needs both, but ",
              present(running_mean)  ? "running_var is None"
              : present(running_var) ? "running_mean is None"
                                     : "both are None (training=True takes the batch's own)");
}

void check_inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                     const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                     const at::Tensor& running_var, double eps) {
  const Argument data{"input", input};
  check_data(data);
  check_affine(weight, bias, data);
  check_running({"running_mean", running_mean}, data);
  check_running({"running_var", running_var}, data);
  check_eps(eps);
}

void check_backward(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
                    const std::optional<at::Tensor>& weight, const at::Tensor& mean,
                    const at::Tensor& invstd, bool training, bool need_input, bool need_weight) {
  constexpr const char* kOp = "batch_norm_backward";
  const Argument data{"grad_output", grad_output, kOp};
  check_data(data);
  TORCH_CHECK(present(input) || !((training && need_input) || need_weight),
              "batch_norm_backward: input is needed for the gradient of ",
              need_weight ? "weight" : "input in training", ", but is None");
  TORCH_CHECK(present(weight) || !need_weight,
              "batch_norm_backward: there is no gradient of weight where weight is None");
  if (present(input)) {
    const Argument same{"input", *input, kOp};
    check_data(same);
    check_device(data, same);
    TORCH_CHECK(grad_output.scalar_type() == input->scalar_type(),
                fmt::format("batch_norm_backward: grad_output must have input's dtype, {}, but is "
                            "{}",
                            name_of(input->scalar_type()), name_of(grad_output.scalar_type())));
    bool same_shape = grad_output.dim() == input->dim();
    for (int64_t d = 0; same_shape && d < input->dim(); ++d)
      same_shape =
          grad_output.sym_size(d).sym_eq(input->sym_size(d)).expect_true(__FILE__, __LINE__);
    TORCH_CHECK(same_shape,
                fmt::format("batch_norm_backward: grad_output must have input's shape, {}, but has "
                            "shape {}",
                            c10::str(input->sym_sizes()), c10::str(grad_output.sym_sizes())));
  }
  if (present(weight)) check_parameter({"weight", *weight, kOp}, data);
  check_saved({"mean", mean, kOp}, data);
  check_saved({"invstd", invstd, kOp}, data);
}

}  // namespace torchbn
