#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "cuda/kernels.h"

namespace torchbn::cuda {

// Launches kernel(arguments...). Nothing is waited for: a graph may be captured.
template <typename Kernel, typename... Arguments>
cudaError_t launch_kernel(Kernel* kernel, int64_t grid, int block, cudaStream_t stream,
                          const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(grid), 1, 1};
  config.blockDim = {static_cast<unsigned>(block), 1, 1};
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Launches kernel(pass, tiling, numbers, more...), whose blocks belong together as the attribute,
// if there is one, says. More than 48 KiB of shared memory are for those who ask. A kernel may be
// launched by several threads at once, so all of them ask for the same.
template <typename Kernel, typename Pass, typename Tiling, typename... More>
cudaError_t launch_on_chip(Kernel* kernel, cudaLaunchAttribute* together, const Pass& pass,
                           const Tiling& tiling, const Launch& launch, const More&... more) {
  const OnChipLaunch& numbers = launch.policy.on_chip;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(numbers.shared_limit));
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(tiling.grid), 1, 1};
  config.blockDim = {static_cast<unsigned>(tiling.block), 1, 1};
  config.dynamicSmemBytes = static_cast<size_t>(numbers.shared_bytes);
  config.stream = launch.stream;
  config.attrs = together;
  config.numAttrs = together != nullptr ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, pass, tiling, numbers, more...);
}

// The blocks are clusters of the policy's size.
template <typename Kernel, typename Pass, typename Tiling, typename... More>
cudaError_t launch_in_clusters(Kernel* kernel, const Pass& pass, const Tiling& tiling,
                               const Launch& launch, const More&... more) {
  const int blocks = launch.policy.on_chip.cluster;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(blocks), 1, 1};
  return launch_on_chip(kernel, blocks > 1 ? &cluster : nullptr, pass, tiling, launch, more...);
}

}  // namespace torchbn::cuda
