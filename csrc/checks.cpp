#include "checks.h"

#include <cmath>
#include <initializer_list>
#include <sstream>
#include <string>

#include <ATen/OpMathType.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "memory_overlap.h"
#include "optional_tensor.h"

namespace torchbn {

namespace {

std::string to_text(c10::SymIntArrayRef sizes) {
  std::ostringstream text;
  text << sizes;
  return text.str();
}

const char* name_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    default:
      return at::toString(dtype);
  }
}

void check_strided(const char* name, const at::Tensor& tensor) {
  TORCH_CHECK(tensor.layout() == at::kStrided,
              fmt::format("batch_norm: {} must be a dense (strided) tensor, but its layout is {}",
                          name, c10::str(tensor.layout())));
}

void check_device(const char* name, const at::Tensor& tensor, const char* like_name,
                  const at::Tensor& like) {
  TORCH_CHECK(tensor.device() == like.device(),
              fmt::format("batch_norm: {} must be on {}'s device, {}, but is on {}", name,
                          like_name, like.device().str(), tensor.device().str()));
}

// input, or grad_output where a backward call has no input.
void check_data(const char* name, const at::Tensor& data) {
  TORCH_CHECK(data.defined(), fmt::format("batch_norm: {} must be a tensor, but is None", name));
  check_strided(name, data);
  const at::ScalarType dtype = data.scalar_type();
  TORCH_CHECK(
      dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16 || dtype == at::kHalf,
      fmt::format("batch_norm: {} must be float32, float64, bfloat16 or float16, but is {}", name,
                  name_of(dtype)));
  TORCH_CHECK(data.dim() >= 2,
              fmt::format("batch_norm: {} must have shape (N, C, ...) with at least 2 dimensions, "
                          "but has shape {}",
                          name, to_text(data.sym_sizes())));
}

void check_per_channel(const char* name, const at::Tensor& tensor, const char* data_name,
                       const at::Tensor& data) {
  check_strided(name, tensor);
  check_device(name, tensor, data_name, data);
  TORCH_CHECK(tensor.dim() == 1,
              fmt::format("batch_norm: {} must have one dimension, [C], but has shape {}", name,
                          to_text(tensor.sym_sizes())));
  TORCH_SYM_CHECK(
      tensor.sym_size(0).sym_eq(data.sym_size(1)),
      fmt::format("batch_norm: {} must have one value per channel of {}, whose shape "
                  "is {}, but has shape {}",
                  name, data_name, to_text(data.sym_sizes()), to_text(tensor.sym_sizes())));
}

// weight, bias, running_mean, running_var
void check_parameter(const char* name, const at::Tensor& tensor, const char* data_name,
                     const at::Tensor& data) {
  const at::ScalarType dtype = data.scalar_type();
  const at::ScalarType wide = at::toOpMathType(dtype);
  TORCH_CHECK(tensor.scalar_type() == dtype || tensor.scalar_type() == wide,
              fmt::format("batch_norm: {} must be {}{} for {} {}, but is {}", name, name_of(dtype),
                          wide == dtype ? "" : fmt::format(" or {}", name_of(wide)), name_of(dtype),
                          data_name, name_of(tensor.scalar_type())));
  check_per_channel(name, tensor, data_name, data);
}

void check_running(const char* name, const at::Tensor& tensor, const at::Tensor& input) {
  check_parameter(name, tensor, "input", input);
  TORCH_CHECK(!tensor.requires_grad(),
              fmt::format("batch_norm: {} must not require grad: running statistics are not "
                          "differentiable",
                          name));
}

void check_eps(double eps) {
  TORCH_CHECK(std::isfinite(eps) && eps >= 0,
              fmt::format("batch_norm: eps must be finite and not negative, but is {}", eps));
}

void check_counter(const at::Tensor& counter, const at::Tensor& input) {
  const char* name = "num_batches_tracked";
  check_strided(name, counter);
  check_device(name, counter, "input", input);
  TORCH_CHECK(counter.scalar_type() == at::kLong && counter.dim() == 0,
              fmt::format("batch_norm: {} must be an int64 scalar (0-dim tensor), but is {} of "
                          "shape {}",
                          name, name_of(counter.scalar_type()), to_text(counter.sym_sizes())));
}

void check_more_than_one_value(const at::Tensor& input) {
  c10::SymInt count = input.sym_size(0);
  for (int64_t d = 2; d < input.dim(); ++d) count = count * input.sym_size(d);
  // Without channels there is no value at all: an empty batch.
  TORCH_SYM_CHECK(count.sym_ne(1).sym_or(input.sym_size(1).sym_eq(0)),
                  fmt::format("batch_norm: training needs more than one value per channel, but "
                              "input has shape {}",
                              to_text(input.sym_sizes())));
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
                            target->name, to_text(tensor.sym_sizes()), tensor.stride(0)));
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

void check_affine(const char* data_name, const at::Tensor& data,
                  const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias) {
  if (present(weight)) check_parameter("weight", *weight, data_name, data);
  if (present(bias)) check_parameter("bias", *bias, data_name, data);
}

void check_saved(const char* name, const at::Tensor& saved, const char* data_name,
                 const at::Tensor& data) {
  TORCH_CHECK(saved.defined() && saved.scalar_type() == at::kDouble,
              fmt::format("batch_norm: {} must be float64, but is {}", name,
                          saved.defined() ? name_of(saved.scalar_type()) : "None"));
  check_per_channel(name, saved, data_name, data);
}

}  // namespace

void check_train(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                 const std::optional<at::Tensor>& bias,
                 const std::optional<at::Tensor>& running_mean,
                 const std::optional<at::Tensor>& running_var,
                 const std::optional<at::Tensor>& num_batches_tracked,
                 std::optional<double> momentum, double eps) {
  check_data("input", input);
  check_affine("input", input, weight, bias);
  TORCH_CHECK(present(running_mean) == present(running_var),
              fmt::format("batch_norm: running_mean and running_var must be given together, but "
                          "{} is None",
                          present(running_mean) ? "running_var" : "running_mean"));
  if (present(running_mean)) check_running("running_mean", *running_mean, input);
  if (present(running_var)) check_running("running_var", *running_var, input);
  if (present(num_batches_tracked)) check_counter(*num_batches_tracked, input);
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

void check_not_negated(const std::optional<at::Tensor>& running_mean,
                       const std::optional<at::Tensor>& running_var) {
  for (const Named& buffer :
       {Named{"running_mean", running_mean}, Named{"running_var", running_var}}) {
    TORCH_CHECK(!present(buffer.tensor) || !buffer.tensor->is_neg(), "batch_norm: ", buffer.name,
                " is a lazily negated view, which can't be updated in place; resolve_neg() first");
  }
}

void check_evaluation(const std::optional<at::Tensor>& running_mean,
                      const std::optional<at::Tensor>& running_var) {
  TORCH_CHECK(present(running_mean) && present(running_var),
              "batch_norm: evaluation (training=False) normalises with running_mean and "
              "running_var and needs both, but ",
              present(running_mean)  ? "running_var is None"
              : present(running_var) ? "running_mean is None"
                                     : "both are None");
}

void check_inference(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                     const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                     const at::Tensor& running_var, double eps) {
  check_data("input", input);
  check_affine("input", input, weight, bias);
  check_running("running_mean", running_mean, input);
  check_running("running_var", running_var, input);
  check_eps(eps);
}

void check_backward(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
                    const std::optional<at::Tensor>& weight, const at::Tensor& mean,
                    const at::Tensor& invstd, bool training, bool need_input, bool need_weight) {
  check_data("grad_output", grad_output);
  TORCH_CHECK(present(input) || !((training && need_input) || need_weight),
              "batch_norm_backward: input is needed for the gradient of ",
              need_weight ? "weight" : "input in training", ", but is None");
  TORCH_CHECK(present(weight) || !need_weight,
              "batch_norm_backward: there is no gradient of weight where weight is None");
  if (present(input)) {
    check_data("input", *input);
    check_device("grad_output", grad_output, "input", *input);
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
                            to_text(input->sym_sizes()), to_text(grad_output.sym_sizes())));
  }
  if (present(weight)) check_parameter("weight", *weight, "grad_output", grad_output);
  check_saved("mean", mean, "grad_output", grad_output);
  check_saved("invstd", invstd, "grad_output", grad_output);
}

}  // namespace torchbn
