#pragma once

#include "core/channel_vector.h"
#include "core/dtype.h"
#include "core/extent.h"
#include "core/statistics.h"

namespace torchbn {

// One call of each operator as the kernels see it: checked, allocated, in one of the two layouts,
// never empty. Input, output and gradients are dense in `extent`'s layout and of type `dtype`.

struct TrainProblem {
  Extent extent;
  DType dtype = DType::kFloat32;
  const void* input = nullptr;
  void* output = nullptr;
  ChannelVector weight;
  ChannelVector bias;
  RunningStatistics running;
  double eps = 0;
  double* save_mean = nullptr;    // [C]
  double* save_invstd = nullptr;  // [C]
};

struct InferenceProblem {
  Extent extent;
  DType dtype = DType::kFloat32;
  const void* input = nullptr;
  void* output = nullptr;
  ChannelVector weight;
  ChannelVector bias;
  ChannelVector running_mean;
  ChannelVector running_var;
  double eps = 0;
  double* save_mean = nullptr;    // [C], copies for the backward pass
  double* save_invstd = nullptr;  // [C]
};

struct BackwardProblem {
  Extent extent;
  DType dtype = DType::kFloat32;
  bool training = false;
  const void* grad_output = nullptr;
  const void* input = nullptr;  // may be null unless reads_input()
  ChannelVector weight;
  const double* mean = nullptr;    // [C]
  const double* invstd = nullptr;  // [C]
  // Null what is not wanted.
  void* grad_input = nullptr;
  MutableChannelVector grad_weight;
  MutableChannelVector grad_bias;

  // In evaluation, the input's gradient alone needs no sums.
  bool needs_sums() const {
    return grad_weight.present() || grad_bias.present() || (training && grad_input != nullptr);
  }
  // Does anything that is wanted depend on the input?
  bool reads_input() const { return grad_weight.present() || (training && grad_input != nullptr); }
};

}  // namespace torchbn
