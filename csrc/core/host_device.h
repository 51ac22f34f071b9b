#pragma once

// Marks a function that CUDA kernels, CPU kernels and unit tests share.
#ifdef __CUDACC__
#define TORCHBN_HOST_DEVICE __host__ __device__
#else
#define TORCHBN_HOST_DEVICE
#endif
