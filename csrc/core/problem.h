#pragma once

#include "core/channel_vector.h"
#include "core/dtype.h"
#include "core/extent.h"
#include "core/host_device.h"
#include "core/statistics.h"

namespace torchbn {

// One call of each operator as the kernels see it: checked, allocated, never empty. Where [N, C, S]
// is said the tensor is dense, of type `dtype`, and lies as `extent` says.

struct TrainProblem {
  Extent extent;
  DType dtype = DType::kFloat32;
  const void* input = nullptr;  // [N, C, S]
  void* output = nullptr;       // [N, C, S]
  ChannelVector weight;         // [C]
  ChannelVector bias;           // [C]
  RunningStatistics running;
  double eps = 0;
  double* save_mean = nullptr;    // [C]
  double* save_invstd = nullptr;  // [C]
};

struct InferenceProblem {
  Extent extent;
  DType dtype = DType::kFloat32;
  const void* input = nullptr;  // [N, C, S]
  void* output = nullptr;       // [N, C, S]
  ChannelVector weight;         // [C]
  ChannelVector bias;           // [C]
  ChannelVector running_mean;   // [C]
  ChannelVector running_var;    // [C]
  double eps = 0;
  double* save_mean = nullptr;    // [C], copies for the backward pass
  double* save_invstd = nullptr;  // [C]
};

struct BackwardProblem {
  Extent extent;
  DType dtype = DType::kFloat32;
  bool training = false;
  const void* grad_output = nullptr;  // [N, C, S]
  const void* input = nullptr;        // [N, C, S]; may be null unless reads_input()
  ChannelVector weight;               // [C]
  const double* mean = nullptr;       // [C]
  const double* invstd = nullptr;     // [C]
  // Null what is not wanted.
  void* grad_input = nullptr;        // [N, C, S]
  MutableChannelVector grad_weight;  // [C]
  MutableChannelVector grad_bias;    // [C]

  // Is the input's gradient made of the sums, after them? Else one read makes everything.
  TORCHBN_HOST_DEVICE bool maps_after_sums() const { return training && grad_input != nullptr; }
  // Does anything that is wanted depend on the input?
  TORCHBN_HOST_DEVICE bool reads_input() const {
    return grad_weight.present() || maps_after_sums();
  }
  // In evaluation, the input's gradient alone needs no sums.
  TORCHBN_HOST_DEVICE bool needs_sums() const { return reads_input() || grad_bias.present(); }
};

}  // namespace torchbn
