#pragma once

#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

#include "core/problem.h"
#include "outputs.h"

namespace torchbn {

// One call of an operator on real tensors, whose arguments have been checked: chooses the layout,
// allocates the outputs in the form that the Meta kernels promise, and describes the work to the
// kernels. Backends differ only in what they do with problem(). Where empty(), there is no work and
// results() is complete.

// What the two forward operators share.
template <typename Problem>
class ForwardCall {
 public:
  bool empty() const { return problem_.extent.numel() == 0; }
  const Problem& problem() const { return problem_; }
  std::tuple<at::Tensor, at::Tensor, at::Tensor> results() &&;

 protected:
  ForwardCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
              const std::optional<at::Tensor>& bias, double eps);

  Problem problem_;

 private:
  at::Tensor input_;
  ForwardOutputs outputs_;
};

class TrainCall : public ForwardCall<TrainProblem> {
 public:
  TrainCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
            const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& running_mean,
            const std::optional<at::Tensor>& running_var,
            const std::optional<at::Tensor>& num_batches_tracked, std::optional<double> momentum,
            double eps);
};

class InferenceCall : public ForwardCall<InferenceProblem> {
 public:
  InferenceCall(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                const std::optional<at::Tensor>& bias, const at::Tensor& running_mean,
                const at::Tensor& running_var, double eps);
};

class BackwardCall {
 public:
  BackwardCall(const at::Tensor& grad_output, const std::optional<at::Tensor>& input,
               const std::optional<at::Tensor>& weight, const at::Tensor& mean,
               const at::Tensor& invstd, bool training, bool need_input, bool need_weight,
               bool need_bias);

  // True also where no gradient is wanted.
  bool empty() const;
  const BackwardProblem& problem() const { return problem_; }
  std::tuple<at::Tensor, at::Tensor, at::Tensor> results() &&;

 private:
  BackwardProblem problem_;
  at::Tensor grad_output_, input_, mean_, invstd_;
  Gradients gradients_;
};

}  // namespace torchbn
