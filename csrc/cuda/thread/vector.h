#pragma once

#include <cstdint>
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

  TORCHBN_HOST_DEVICE T get(int w) const { return lane[w]; }
  TORCHBN_HOST_DEVICE void set(int w, T value) { lane[w] = value; }
};

// Of a two-byte type as the words that it comes in. An array of halves is taken apart at once, each
// of them into a register of its own, and for that a vector has to be there before the next one is
// asked for.
template <typename T, int kWidth>
requires(sizeof(T) == 2 && kWidth > 1) struct alignas(sizeof(T) * kWidth) Vector<T, kWidth> {
  uint32_t word[kWidth / 2];

  TORCHBN_HOST_DEVICE T get(int w) const {
    return {static_cast<uint16_t>(word[w / 2] >> (w % 2 * 16))};
  }
  // The lower half of a word before the upper one.
  TORCHBN_HOST_DEVICE void set(int w, T value) {
    const uint32_t bits = value.bits;
    word[w / 2] = w % 2 == 0 ? bits : word[w / 2] | bits << 16;
  }
};

// `aligned` is the same for a whole launch. Where it is false (a slice of a buffer) the same values
// move one by one, so that who adds what to which sum does not depend on it. On the host, for
// tests, they always do: GCC 12 may make one load of these two, the aligned one.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> load_vector(const T* from, [[maybe_unused]] bool aligned) {
#ifdef __CUDA_ARCH__
  if (aligned) return *reinterpret_cast<const Vector<T, kWidth>*>(from);
#endif
  Vector<T, kWidth> vector;
  for (int w = 0; w < kWidth; ++w) vector.set(w, from[w]);
  return vector;
}

// Of a vector only the first values, as many as are there.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> load_values(const T* from, int present) {
  Vector<T, kWidth> vector{};
  for (int w = 0; w < kWidth; ++w) vector.set(w, w < present ? from[w] : T{});
  return vector;
}

template <typename T, int kWidth>
TORCHBN_HOST_DEVICE void store_vector(T* to, const Vector<T, kWidth>& vector, bool aligned) {
  if (aligned) {
    *reinterpret_cast<Vector<T, kWidth>*>(to) = vector;
    return;
  }
  for (int w = 0; w < kWidth; ++w) to[w] = vector.get(w);
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

// Two values as one word, on a device in one instruction.
template <typename T>
TORCHBN_HOST_DEVICE uint32_t pair_from_compute(float lower, float upper) {
#ifdef __CUDA_ARCH__
  if constexpr (std::is_same_v<T, BFloat16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(lower, upper);
    return reinterpret_cast<const uint32_t&>(pair);
  } else {
    const __half2 pair = __floats2half2_rn(lower, upper);
    return reinterpret_cast<const uint32_t&>(pair);
  }
#else
  const uint32_t high = from_compute<T>(upper).bits;
  return from_compute<T>(lower).bits | high << 16;
#endif
}

template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> vector_from_compute(const Compute<T> (&values)[kWidth]) {
  Vector<T, kWidth> vector;
  if constexpr (sizeof(T) == 2 && kWidth > 1) {
    for (int w = 0; w < kWidth; w += 2)
      vector.word[w / 2] = pair_from_compute<T>(values[w], values[w + 1]);
  } else {
    for (int w = 0; w < kWidth; ++w) vector.set(w, from_compute<T>(values[w]));
  }
  return vector;
}

}  // namespace torchbn::cuda
