#pragma once

#include "core/problem.h"

namespace torchbn::cpu {

// Each runs one checked, non-empty call on at::parallel_for. The result has the same bits for every
// number of threads.
void train(const TrainProblem& problem);
void inference(const InferenceProblem& problem);
void backward(const BackwardProblem& problem);

}  // namespace torchbn::cpu
