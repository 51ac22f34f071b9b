#pragma once

#include <type_traits>

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include "core/dtype.h"
#include "core/host_device.h"

namespace torchbn::cuda {

// Neighbouring values that a thread loads or stores at once.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Vector {
  T lane[kWidth];
};

// `aligned` is the same for a whole launch. Where it is false (a slice of a buffer) the same values
// move one by one, so that who adds what to which sum does not depend on it. On the host, for tests,
// they always do: GCC 12 may make one load of these two, the aligned one.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> load_vector(const T* from, [[maybe_unused]] bool aligned) {
#ifdef __CUDA_ARCH__
  if (aligned) return *reinterpret_cast<const Vector<T, kWidth>*>(from);
#endif
  Vector<T, kWidth> vector;
  for (int w = 0; w < kWidth; ++w) vector.lane[w] = from[w];
  return vector;
}

// Of a vector only the first values, as many as are there.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> load_values(const T* from, int present) {
  Vector<T, kWidth> vector{};
  for (int w = 0; w < kWidth; ++w)
    if (w < present) vector.lane[w] = from[w];
  return vector;
}

template <typename T, int kWidth>
TORCHBN_HOST_DEVICE void store_vector(T* to, const Vector<T, kWidth>& vector, bool aligned) {
  if (aligned) {
    *reinterpret_cast<Vector<T, kWidth>*>(to) = vector;
    return;
  }
  for (int w = 0; w < kWidth; ++w) to[w] = vector.lane[w];
}

// widen() and narrow() in the device's own conversion instructions; NaN stays NaN in both.
template <typename T>
TORCHBN_HOST_DEVICE Compute<T> to_compute(T value) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, Float16>) return __half2float(__ushort_as_half(value.bits));
#endif
  return widen(value);
}

template <typename T>
TORCHBN_HOST_DEVICE T from_compute(Compute<T> value) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, Float16>) return {__half_as_ushort(__float2half_rn(value))};
  if constexpr (std::is_same_v<T, BFloat16>)
    return {__bfloat16_as_ushort(__float2bfloat16_rn(value))};
#endif
  if constexpr (std::is_same_v<T, Compute<T>>)
    return value;
  else
    return narrow<T>(value);
}

}  // namespace torchbn::cuda
