#pragma once

#include "cuda/kernels.h"

namespace torchbn::cuda {

// What lies where in the workspace.

template <typename Sums>
Sums* partial_sums(const Launch& launch) {
  static_assert(sizeof(Sums) <= kSumsBytes);
  return static_cast<Sums*>(launch.workspace);
}

template <typename Coefficients>
Coefficients* coefficients(const Launch& launch) {
  static_assert(sizeof(Coefficients) <= kCoefficientBytes);
  return reinterpret_cast<Coefficients*>(static_cast<unsigned char*>(launch.workspace) +
                                         launch.policy.workspace_coefficients);
}

}  // namespace torchbn::cuda
