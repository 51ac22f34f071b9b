#pragma once

#include "core/finish_channel.h"
#include "core/thread_sums.h"

namespace torchbn::cuda {

// What the sums of a channel are needed for, by one thread. T is what its values are transformed
// in.

// A channel's first value, whatever the layout.
__device__ inline double first_value(const TrainProblem& problem, int64_t channel) {
  const bool first = problem.extent.layout == Layout::kChannelsFirst;
  const int64_t offset = first ? channel * problem.extent.spatial : channel;
  return ChannelVector{problem.input, 1, problem.dtype}.load(offset);
}

template <typename T>
__device__ Affine<T> finish_channel(const TrainProblem& problem, int64_t channel,
                                    const ShiftedSums& sums, bool stores) {
  return finish_training<T>(problem, channel, sums, pivot_from(first_value(problem, channel)),
                            stores);
}

// The sums about the mean, of which the parameters' gradients are stored.
template <typename T>
__device__ GradientSums finish_parameters(const BackwardProblem& problem, int64_t channel,
                                          const GradientSums& merged, bool stores) {
  const double mean = problem.mean[channel];
  const GradientSums sums = recenter(merged, mean, static_cast<T>(mean));
  if (stores) store_parameters(problem, channel, sums);
  return sums;
}

}  // namespace torchbn::cuda
