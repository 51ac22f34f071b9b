#pragma once

#include <cuda_runtime_api.h>

#include <vector>

// Two simulated GPUs in the place of real ones. A process that loads this library first has torch
// find the CUDA runtime here. What is queued on a stream runs immediately: our kernels on the
// device of device.h, torch's own operators on the CPU (torch_operators.cpp).
#pragma GCC visibility push(default)
namespace torchbn::simulated {

// Of architecture 9.0, but small.
inline constexpr int kFirstDevice = 0;
// Of architecture 8.0, which knows no clusters, and smaller still.
inline constexpr int kSecondDevice = 1;
inline constexpr int kDevices = 2;

// A launch of one of our kernels.
struct Launched {
  int device = 0;
  cudaStream_t stream = nullptr;
  unsigned grid = 1;
  unsigned cluster = 1;  // blocks that run together
  bool cooperative = false;
};
// Those since the last call.
std::vector<Launched> launched();

// Calls of torch's own operators on tensors of GPUs, so far.
int torch_calls();

// Has every launch fail with this error that is of clusters, or cooperative; cudaSuccess puts it
// right again. A GPU says so for reasons that its properties do not tell.
void refuse_clusters(cudaError_t error);
void refuse_cooperative(cudaError_t error);

// For the time of a scope nobody reaches the memory of a GPU but its own kernels, and what copies.
// Other threads wait for its end, autograd's as well.
class Protection {
 public:
  Protection();
  ~Protection();
  Protection(const Protection&) = delete;
  Protection& operator=(const Protection&) = delete;
};

}  // namespace torchbn::simulated
#pragma GCC visibility pop
