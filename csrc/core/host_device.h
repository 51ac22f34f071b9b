#pragma once

// TORCHBN_HOST_DEVICE marks a function that CUDA kernels, CPU kernels and unit tests share,
// TORCHBN_HOST one that they call on the CPU only.
//
// On the CPU it is always inlined: translation units for several instruction sets call it, and of a
// function that each of them had emitted the linker would keep any one.
#ifdef __CUDACC__
#define TORCHBN_HOST inline
#define TORCHBN_HOST_DEVICE __host__ __device__ inline
#else
#define TORCHBN_HOST __attribute__((always_inline)) inline
#define TORCHBN_HOST_DEVICE TORCHBN_HOST
#endif
