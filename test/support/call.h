#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <torchbn/batch_norm.h>

namespace torchbn::test {

// The arguments of one call of batch_norm; undefined tensors are absent arguments.
struct Arguments {
  at::Tensor input;
  at::Tensor weight;
  at::Tensor bias;
  at::Tensor running_mean;
  at::Tensor running_var;
  bool training = true;
  std::optional<double> momentum = 0.1;
  double eps = 1e-5;
  at::Tensor num_batches_tracked;
};

inline std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

inline at::Tensor call(const Arguments& a) {
  return batch_norm(a.input, given(a.weight), given(a.bias), given(a.running_mean),
                    given(a.running_var), a.training, a.momentum, a.eps,
                    given(a.num_batches_tracked));
}

}  // namespace torchbn::test
