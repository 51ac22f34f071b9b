#pragma once

#include <cuda_runtime_api.h>

#include "core/problem.h"
#include "cuda/launch_policy.h"

namespace torchbn::cuda {

// The workspace has the policy's size, is aligned to 256 bytes and need not be initialised; its
// contents mean nothing afterwards.
struct Launch {
  LaunchPolicy policy;
  void* workspace = nullptr;
  cudaStream_t stream = nullptr;
};

// Each enqueues one call on the stream, which is of the current device, and neither waits nor
// allocates, so that a CUDA graph can capture it.
cudaError_t train(const TrainProblem& problem, const Launch& launch);
cudaError_t inference(const InferenceProblem& problem, const Launch& launch);
cudaError_t backward(const BackwardProblem& problem, const Launch& launch);

}  // namespace torchbn::cuda
