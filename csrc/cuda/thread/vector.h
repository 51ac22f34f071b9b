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

// Of a vector only the first values, as many as are there.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> load_values(const T* from, int present) {
  Vector<T, kWidth> vector{};
  for (int w = 0; w < kWidth; ++w) vector.set(w, w < present ? from[w] : T{});
  return vector;
}

// At a multiple of the vector's size.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE Vector<T, kWidth> load_vector(const T* from) {
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const Vector<T, kWidth>*>(from);
#else
  return load_values<T, kWidth>(from, kWidth);
#endif
}

#ifdef __CUDACC__
// What is stored in one instruction.
template <size_t kBytes>
struct WordOf;
template <>
struct WordOf<2> {
  using Type = unsigned short;
};
template <>
struct WordOf<4> {
  using Type = unsigned;
};
template <>
struct WordOf<8> {
  using Type = uint2;
};
template <>
struct WordOf<16> {
  using Type = uint4;
};
#endif

// `past_caches` is the same for a whole launch: caches are left to others. Single values do not
// gain by it.
template <typename T, int kWidth>
TORCHBN_HOST_DEVICE void store_vector(T* to, const Vector<T, kWidth>& vector,
                                      [[maybe_unused]] bool past_caches = false) {
#ifdef __CUDA_ARCH__
  using Word = typename WordOf<sizeof(vector)>::Type;
  const Word& word = reinterpret_cast<const Word&>(vector);
  if (kWidth > 1 && past_caches)
    __stcs(reinterpret_cast<Word*>(to), word);
  else
    *reinterpret_cast<Word*>(to) = word;
#else
  for (int w = 0; w < kWidth; ++w) to[w] = vector.get(w);
#endif
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
