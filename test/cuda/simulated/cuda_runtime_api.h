#pragma once

// The little of CUDA that the kernels use, for a host compiler: found before the toolkit's header
// of the same name where kernels are compiled to be simulated.

#include <cstddef>
#include <cstring>

#include "cuda/simulated/device.h"

#define __global__
// All of it is inlined: a store of what a call returns would not be reported to races.cpp.
#define __device__ __attribute__((always_inline))
#define __launch_bounds__(...)
// One block runs at a time. Blocks of a cluster take turns: their kernels have dynamic shared
// memory.
#define __shared__ static

enum cudaError : int { cudaSuccess };
using cudaError_t = cudaError;
using cudaStream_t = struct CUstream_st*;

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
struct cudaFuncAttributes {
  int ptxVersion = 0;
};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  attributes->ptxVersion = 90;  // simulated devices have clusters
  return cudaSuccess;
}

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension,
  cudaLaunchAttributeCooperative,
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    dim3 clusterDim;
    int cooperative;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};
template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  torchbn::simulated::Launch launch;
  launch.grid = config->gridDim.x;
  launch.block = static_cast<int>(config->blockDim.x);
  launch.dynamic_shared = config->dynamicSmemBytes;
  launch.stream = config->stream;
  if (config->numAttrs > 0) {
    launch.cooperative = config->attrs->id == cudaLaunchAttributeCooperative;
    launch.cluster = launch.cooperative ? launch.grid : config->attrs->val.clusterDim.x;
  }
  // By value, as for a GPU that comes to it later.
  launch.kernel = [kernel, arguments...] { kernel(arguments...); };
  return static_cast<cudaError_t>(torchbn::simulated::enqueue(launch));
}

inline torchbn::simulated::Index threadIdx, blockIdx, blockDim, gridDim;

inline void __syncthreads() {
  torchbn::simulated::wait_for_block();
}

// What the lane `delta` further on has, within groups of `width` lanes; at their ends the own
// value.
template <typename T>
T __shfl_down_sync(unsigned mask, T value, int delta, int width) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned from = lane + static_cast<unsigned>(delta);
  const bool inside = lane / static_cast<unsigned>(width) == from / static_cast<unsigned>(width);
  T result;
  torchbn::simulated::exchange(mask, &value, &result, sizeof(T), inside ? from : lane);
  return result;
}
