#include "core/affine.h"
#include "core/statistics.h"
#include "cuda/dispatch.cuh"
#include "cuda/kernels.h"
#include "cuda/normalize.h"
#include "cuda/reduce.cuh"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

// A channel's first value, whatever the layout.
__device__ double first_value(const TrainProblem& problem, int64_t channel) {
  const bool first = problem.extent.layout == Layout::kChannelsFirst;
  const int64_t offset = first ? channel * problem.extent.spatial : channel;
  return ChannelVector{problem.input, 1, problem.dtype}.load(offset);
}

// `lanes` threads per channel merge its parts; the first of them stores what the channel's
// statistics are needed for. Warps stay whole for the merge, so blocks step over the channels
// together.
template <typename T>
__global__ void __launch_bounds__(kBlock)
    finish_moments(const TrainProblem problem, const ShiftedSums* partials, int64_t parts,
                   int lanes, Affine<T>* coefficients) {
  const int64_t channels = problem.extent.channels;
  const int per_block = kBlock / lanes;
  for (int64_t base = int64_t{blockIdx.x} * per_block; base < channels;
       base += int64_t{gridDim.x} * per_block) {
    const int64_t channel = base + static_cast<int>(threadIdx.x) / lanes;
    const ShiftedSums sums = merge_parts(partials, parts, channels, channel, lanes);
    if (channel >= channels || threadIdx.x % lanes != 0) continue;

    const int64_t count = problem.extent.count();
    const Statistics batch = finish(sums, pivot_from(first_value(problem, channel)), count);
    const double invstd = inverse_std(batch.variance, problem.eps);
    problem.save_mean[channel] = batch.mean;
    problem.save_invstd[channel] = invstd;
    coefficients[channel] = fold_affine<T>(batch.mean, invstd, problem.weight.load_or(channel, 1),
                                           problem.bias.load_or(channel, 0));
    if (problem.running.mean.present() || problem.running.var.present())
      problem.running.update(channel, batch, count, problem.running.factor());
  }
}

cudaError_t launch_reduce(const TrainProblem& problem, const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const MomentReduction<T, kWidth> reduction{static_cast<const T*>(problem.input),
                                               launch.policy.aligned};
    return launch_reduction(reduction, tiling, partial_sums<ShiftedSums>(launch), launch.stream);
  });
}

cudaError_t launch_finish(const TrainProblem& problem, const Launch& launch) {
  return with_compute_type(problem.dtype, [&]<typename T>() {
    const FinishLaunch& numbers = launch.policy.finish;
    finish_moments<T><<<static_cast<unsigned>(numbers.grid), kBlock, 0, launch.stream>>>(
        problem, partial_sums<ShiftedSums>(launch), launch.policy.parts, numbers.lanes,
        coefficients<Affine<T>>(launch));
    return cudaGetLastError();
  });
}

}  // namespace

cudaError_t train(const TrainProblem& problem, const Launch& launch) {
  cudaError_t error = launch_reduce(problem, launch);
  if (error == cudaSuccess) error = launch_finish(problem, launch);
  if (error == cudaSuccess)
    error = normalize(problem.input, problem.output, problem.dtype,
                      problem.running.num_batches_tracked, launch);
  return error;
}

}  // namespace torchbn::cuda
