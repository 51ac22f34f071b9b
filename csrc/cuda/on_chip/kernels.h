#pragma once

#include "cuda/kernels.h"

namespace torchbn::cuda {

// train() and backward() where the policy has chosen clusters or teams: nothing but one launch.
// (With clusters, the counter takes a launch of its own where the momentum is read from it.)
cudaError_t train_on_chip(const TrainProblem& problem, const Launch& launch);
cudaError_t backward_on_chip(const BackwardProblem& problem, const Launch& launch);

}  // namespace torchbn::cuda
