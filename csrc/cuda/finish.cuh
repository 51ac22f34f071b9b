#pragma once

#include "core/affine.h"
#include "core/gradient.h"
#include "core/packet.h"
#include "core/problem.h"
#include "core/statistics.h"

namespace torchbn::cuda {

// What the sums of a channel are needed for, by one thread. T is what its values are transformed
// in.

// A channel's first value, whatever the layout.
__device__ inline double first_value(const TrainProblem& problem, int64_t channel) {
  const bool first = problem.extent.layout == Layout::kChannelsFirst;
  const int64_t offset = first ? channel * problem.extent.spatial : channel;
  return ChannelVector{problem.input, 1, problem.dtype}.load(offset);
}

// Where several threads need a channel's coefficients, only one of them `stores` its statistics.
template <typename T>
__device__ Affine<T> finish_channel(const TrainProblem& problem, int64_t channel,
                                    const ShiftedSums& sums, bool stores) {
  const int64_t count = problem.extent.count();
  const Statistics batch = finish(sums, pivot_from(first_value(problem, channel)), count);
  const double invstd = inverse_std(batch.variance, problem.eps);
  if (stores) {
    problem.save_mean[channel] = batch.mean;
    problem.save_invstd[channel] = invstd;
    if (problem.running.mean.present() || problem.running.var.present())
      problem.running.update(channel, batch, count, problem.running.factor());
  }
  return fold_affine<T>(batch.mean, invstd, problem.weight.load_or(channel, 1),
                        problem.bias.load_or(channel, 0));
}

// Stores the parameters' gradients; returns the sums about the mean.
template <typename T>
__device__ GradientSums finish_parameters(const BackwardProblem& problem, int64_t channel,
                                          const GradientSums& merged, bool stores) {
  const double mean = problem.mean[channel];
  const GradientSums sums = recenter(merged, mean, static_cast<T>(mean));
  if (stores && problem.grad_weight.present())
    problem.grad_weight.store(channel, sums.grad_weight(problem.invstd[channel]));
  if (stores && problem.grad_bias.present()) problem.grad_bias.store(channel, sums.grad_bias());
  return sums;
}

template <typename T>
__device__ GradientCoefficients<T> training_coefficients(const BackwardProblem& problem,
                                                         int64_t channel,
                                                         const GradientSums& sums) {
  return fold_gradient<T>(sums, problem.mean[channel], problem.invstd[channel],
                          problem.weight.load_or(channel, 1), problem.extent.count());
}

}  // namespace torchbn::cuda
