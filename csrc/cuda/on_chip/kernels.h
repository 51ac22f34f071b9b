#pragma once

#include "cuda/kernels.h"

namespace torchbn::cuda {

// train() and backward() where the policy has chosen clusters or teams: nothing but one launch.
// (With clusters, the counter takes a launch of its own where the momentum is read from it.)
cudaError_t train_on_chip(const TrainProblem& problem, const Launch& launch);
cudaError_t backward_on_chip(const BackwardProblem& problem, const Launch& launch);
// backward() in clusters where nothing is mapped after the sums.
cudaError_t sum_gradients_on_chip(const BackwardProblem& problem, const Launch& launch);

// Whether the code that the current device runs knows clusters. A device that has them may run code
// that was compiled for older ones.
cudaError_t code_has_clusters(bool* has);

}  // namespace torchbn::cuda
