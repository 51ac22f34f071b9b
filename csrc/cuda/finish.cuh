#pragma once

#include <cuda_runtime_api.h>

#include "core/finish_channel.h"
#include "cuda/thread/sums.h"

namespace torchbn::cuda {

// What the sums of a channel are needed for, by one thread. T is what its values are transformed
// in.

template <typename T>
__device__ Affine<T> finish_channel(const TrainProblem& problem, int64_t channel,
                                    const ShiftedSums& sums, bool stores) {
  const ChannelVector input{problem.input, 1, problem.dtype};
  const double pivot = pivot_from(input.load(problem.extent.first_value(channel)));
  return finish_training<T>(problem, channel, sums, pivot, stores);
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

// Asks for what finishing a channel reads besides its sums. Otherwise that would begin to load when
// the sums are there, with the whole block waiting for it.
__device__ inline void ask_for([[maybe_unused]] const ChannelVector& vector,
                               [[maybe_unused]] int64_t channel) {
#ifdef __CUDA_ARCH__
  if (vector.present()) asm volatile("prefetch.global.L1 [%0];" : : "l"(vector.address(channel)));
#endif
}

__device__ inline void ask_for(const TrainProblem& problem, int64_t channel) {
  ask_for(ChannelVector{problem.input, 1, problem.dtype}, problem.extent.first_value(channel));
  ask_for(problem.weight, channel);
  ask_for(problem.bias, channel);
  if (!problem.running.present()) return;
  ask_for(problem.running.mean.read(), channel);
  ask_for(problem.running.var.read(), channel);
}

__device__ inline void ask_for(const BackwardProblem& problem, int64_t channel) {
  ask_for(ChannelVector{problem.mean, 1, DType::kFloat64}, channel);
  ask_for(ChannelVector{problem.invstd, 1, DType::kFloat64}, channel);
  ask_for(problem.weight, channel);
}

}  // namespace torchbn::cuda
