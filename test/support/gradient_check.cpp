#include "support/gradient_check.h"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "support/cases.h"
#include "support/compare.h"

namespace torchbn::test {

namespace {

// Unlike any input's: a projection that repeats the input lies where batch norm has no gradient.
constexpr uint64_t kProjectionSeed = 20150211;

}  // namespace

testing::AssertionResult gradients_agree(const Function& f, const std::vector<at::Tensor>& inputs) {
  const at::Tensor result = f(inputs);
  const at::Tensor projection = normal(result.sizes(), kProjectionSeed).to(result.device());
  std::vector<at::Tensor> wanted;
  for (const at::Tensor& input : inputs) {
    if (input.requires_grad()) wanted.push_back(input);
  }
  const auto gradients = torch::autograd::grad({result}, wanted, {projection},
                                               /*retain_graph=*/false, /*create_graph=*/false,
                                               /*allow_unused=*/true);

  const at::NoGradGuard no_grad;
  constexpr double kStep = 6e-6;
  for (size_t i = 0, used = 0; i < inputs.size(); ++i) {
    if (!inputs[i].requires_grad()) continue;
    const at::Tensor gradient =
        gradients[used].defined() ? gradients[used] : at::zeros_like(inputs[i]);
    ++used;
    const auto moved_by = [&](int64_t element, double step) {
      std::vector<at::Tensor> moved = inputs;
      // Not reshape(-1), which may copy: the element is moved in place, whatever the strides.
      moved[i] = inputs[i].detach().clone(at::MemoryFormat::Preserve);
      at::Tensor place = moved[i];
      for (int64_t d = moved[i].dim() - 1; d >= 0; --d) {
        place = place.select(d, element % moved[i].size(d));
        element /= moved[i].size(d);
      }
      place.add_(step);
      return f(moved);
    };
    at::Tensor differences = at::zeros(inputs[i].sizes(), at::kDouble);
    double* const out = differences.mutable_data_ptr<double>();
    for (int64_t element = 0; element < inputs[i].numel(); ++element) {
      const at::Tensor difference = moved_by(element, kStep) - moved_by(element, -kStep);
      out[element] = (difference * projection).sum().item<double>() / (2 * kStep);
    }

    const double largest = differences.numel() == 0 ? 0 : differences.abs().max().item<double>();
    const auto near = is_near(gradient, differences, 1e-7 * largest + 1e-8);
    if (!near)
      return testing::AssertionFailure() << "gradient of input " << i << ": " << near.message();
  }
  return testing::AssertionSuccess();
}

Function gradient_of(const Function& f) {
  return [f](const std::vector<at::Tensor>& inputs_and_projection) {
    const at::AutoGradMode with_grad(true);
    std::vector<at::Tensor> inputs(inputs_and_projection.begin(), inputs_and_projection.end() - 1);
    // Finite differences pass plain values.
    for (at::Tensor& input : inputs) {
      if (!input.requires_grad()) input = input.detach().requires_grad_();
    }
    const auto gradients =
        torch::autograd::grad({f(inputs)}, inputs, {inputs_and_projection.back()},
                              /*retain_graph=*/true, /*create_graph=*/true,
                              /*allow_unused=*/true);
    std::vector<at::Tensor> flat;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const at::Tensor& gradient = gradients[i];
      flat.push_back((gradient.defined() ? gradient : at::zeros_like(inputs[i])).reshape(-1));
    }
    return at::cat(flat);
  };
}

}  // namespace torchbn::test
