#pragma once

// Marks a function that CUDA kernels, CPU kernels and unit tests share.
//
// On the CPU it is always inlined: translation units for several instruction sets call it, and of a
// function that each of them had emitted the linker would keep any one.
#ifdef __CUDACC__
#define TORCHBN_HOST_DEVICE __host__ __device__ inline
#else
#define TORCHBN_HOST_DEVICE __attribute__((always_inline)) inline
#endif
