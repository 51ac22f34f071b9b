#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/gradient.h"
#include "core/host_device.h"
#include "core/problem.h"
#include "core/statistics.h"

namespace torchbn {

// What each operator makes of one channel, between its sums and its map. T is the type in which
// values are mapped.

// Training: the sums about `pivot` become the statistics that backward needs, an update of the
// running ones, and the channel's map. Of several threads that need the map, one `stores`.
template <typename T>
TORCHBN_HOST_DEVICE Affine<T> finish_training(const TrainProblem& problem, int64_t channel,
                                              const ShiftedSums& sums, double pivot,
                                              bool stores = true) {
  const int64_t count = problem.extent.count();
  const Statistics batch = finish(sums, pivot, count);
  const double invstd = inverse_std(batch.variance, problem.eps);
  if (stores) {
    problem.save_mean[channel] = batch.mean;
    problem.save_invstd[channel] = invstd;
    problem.running.update(channel, batch, count);
  }
  return fold_affine<T>(batch.mean, invstd, problem.weight.load_or(channel, 1),
                        problem.bias.load_or(channel, 0));
}

// Evaluation: the running statistics become the channel's map. Copies of them are what backward
// uses, so that a later update does not reach it. Of several threads that need the map, one
// `stores` them.
template <typename T>
TORCHBN_HOST_DEVICE Affine<T> finish_inference(const InferenceProblem& problem, int64_t channel,
                                               bool stores = true) {
  const double mean = problem.running_mean.load(channel);
  const double invstd = inverse_std(problem.running_var.load(channel), problem.eps);
  if (stores) {
    problem.save_mean[channel] = mean;
    problem.save_invstd[channel] = invstd;
  }
  return fold_affine<T>(mean, invstd, problem.weight.load_or(channel, 1),
                        problem.bias.load_or(channel, 0));
}

// Backward: the gradients of the parameters that are wanted.
TORCHBN_HOST_DEVICE void store_parameters(const BackwardProblem& problem, int64_t channel,
                                          const GradientSums& sums) {
  if (problem.grad_weight.present())
    problem.grad_weight.store(channel, sums.grad_weight(problem.invstd[channel]));
  if (problem.grad_bias.present()) problem.grad_bias.store(channel, sums.grad_bias());
}

// Backward of training: how dx follows from dy and x.
template <typename T>
TORCHBN_HOST_DEVICE GradientCoefficients<T> training_gradient(const BackwardProblem& problem,
                                                              int64_t channel,
                                                              const GradientSums& sums) {
  return fold_gradient<T>(sums, problem.mean[channel], problem.invstd[channel],
                          problem.weight.load_or(channel, 1), problem.extent.count());
}

// Backward of evaluation, where mean and invstd are constants: how dx follows from dy alone.
template <typename T>
TORCHBN_HOST_DEVICE Affine<T> evaluation_gradient(const BackwardProblem& problem, int64_t channel) {
  return fold_evaluation_gradient<T>(problem.invstd[channel], problem.weight.load_or(channel, 1));
}

}  // namespace torchbn
