#include "core/affine.h"
#include "core/statistics.h"
#include "cuda/dispatch.cuh"
#include "cuda/finish.cuh"
#include "cuda/kernels.h"
#include "cuda/normalize.h"
#include "cuda/reduce.cuh"
#include "cuda/resident.h"
#include "cuda/workspace.h"

namespace torchbn::cuda {

namespace {

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
    coefficients[channel] = finish_channel<T>(problem, channel, sums, true);
  }
}

cudaError_t launch_reduce(const TrainProblem& problem, const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const T* const input = static_cast<const T*>(problem.input);
    const MomentReduction<T, kWidth> reduction{input, input, launch.policy.aligned};
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
  if (launch.policy.resident.used()) return train_resident(problem, launch);
  cudaError_t error = launch_reduce(problem, launch);
  if (error == cudaSuccess) error = launch_finish(problem, launch);
  if (error == cudaSuccess)
    error = normalize(problem.input, problem.output, problem.dtype,
                      problem.running.num_batches_tracked, launch);
  return error;
}

}  // namespace torchbn::cuda
