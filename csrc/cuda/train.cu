#include "core/affine.h"
#include "core/statistics.h"
#include "cuda/dispatch.cuh"
#include "cuda/finish.cuh"
#include "cuda/kernels.h"
#include "cuda/launch.cuh"
#include "cuda/merge.cuh"
#include "cuda/normalize.h"
#include "cuda/on_chip/kernels.h"
#include "cuda/reduce.cuh"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// Merges each channel's parts and stores what its statistics are needed for.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    finish_moments(const TrainProblem problem, const ShiftedSums* partials, int64_t parts,
                   int lanes, Affine<T>* coefficients) {
  for_merged(partials, parts, problem.extent.channels, lanes,
             [&](int64_t channel, const ShiftedSums& sums) {
               coefficients[channel] = finish_channel<T>(problem, channel, sums, true);
             });
}

cudaError_t launch_reduce(const TrainProblem& problem, const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const MomentReduction<T, kWidth> reduction{static_cast<const T*>(problem.input)};
    return launch_reduction(reduction, tiling, partial_sums<ShiftedSums>(launch), launch.stream);
  });
}

cudaError_t launch_finish(const TrainProblem& problem, const Launch& launch) {
  return with_compute_type(problem.dtype, [&]<typename T>() {
    const FinishLaunch& numbers = launch.policy.finish;
    return launch_kernel(finish_moments<T>, numbers.grid, kBlock, launch.stream, problem,
                         partial_sums<ShiftedSums>(launch), launch.policy.parts, numbers.lanes,
                         coefficients<Affine<T>>(launch));
  });
}

}  // namespace

cudaError_t train(const TrainProblem& problem, const Launch& launch) {
  if (launch.policy.on_chip.used()) return train_on_chip(problem, launch);
  cudaError_t error = launch_reduce(problem, launch);
  if (error == cudaSuccess) error = launch_finish(problem, launch);
  if (error == cudaSuccess)
    error = normalize(problem.input, problem.output, problem.dtype,
                      problem.running.num_batches_tracked, launch);
  return error;
}

}  // namespace torchbn::cuda
