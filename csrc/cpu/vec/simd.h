#pragma once

#include <cstdint>
#include <utility>

#include "core/dtype.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Registers and conversions for the translation unit that includes this. Everything here has
// internal linkage: an inline function shared by the translation units might be kept by the linker
// in its AVX-512 form. For the same reason core's scalar conversions are called in the baseline
// only.
namespace torchbn::cpu::vec {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

#define TORCHBN_ALWAYS_INLINE __attribute__((always_inline)) inline

template <typename E, int N>
struct VectorOf {
  typedef E type __attribute__((vector_size(N * sizeof(E))));
};
template <typename E, int N>
using Vector = typename VectorOf<E, N>::type;

template <typename E>
constexpr int kWidth = kRegisterBytes / sizeof(E);
template <typename E>
using Register = Vector<E, kWidth<E>>;

template <typename V>
TORCHBN_ALWAYS_INLINE V load_bits(const void* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V>
TORCHBN_ALWAYS_INLINE void store_bits(void* to, V value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

template <typename To, typename From>
TORCHBN_ALWAYS_INLINE To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  return load_bits<To>(&value);
}

template <typename E>
TORCHBN_ALWAYS_INLINE Register<E> broadcast(E value) {
  return value - Register<E>{};  // x - 0 is x, -0 included
}

// f(0), ..., f(N - 1) with constant arguments, so that arrays of registers stay in registers.
template <int N, typename F>
TORCHBN_ALWAYS_INLINE void unroll(const F& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

// N elements as they are computed with: float, or double for double.

template <int N>
TORCHBN_ALWAYS_INLINE Vector<float, N> load(const float* from) {
  return load_bits<Vector<float, N>>(from);
}

template <int N>
TORCHBN_ALWAYS_INLINE Vector<double, N> load(const double* from) {
  return load_bits<Vector<double, N>>(from);
}

// Conversions that GCC 12 splits into halves when they are written as __builtin_convertvector are
// intrinsics here; with masks where the plain form warns of an uninitialised register.

template <int N>
TORCHBN_ALWAYS_INLINE Vector<uint32_t, N> widen_bits(const void* from) {
  using Bits = Vector<uint32_t, N>;
#if defined(__AVX512F__)
  if constexpr (N == 16)
    return bit_cast<Bits>(_mm512_maskz_cvtepu16_epi32(0xffff, load_bits<__m256i>(from)));
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return bit_cast<Bits>(_mm256_cvtepu16_epi32(load_bits<__m128i>(from)));
  if constexpr (N == 4)
    return bit_cast<Bits>(_mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(from))));
#endif
  return __builtin_convertvector(load_bits<Vector<uint16_t, N>>(from), Bits);
}

TORCHBN_ALWAYS_INLINE Register<double> widen_to_double(Vector<float, kWidth<double>> value) {
#if defined(__AVX512F__)
  return bit_cast<Register<double>>(_mm512_maskz_cvtps_pd(0xff, bit_cast<__m256>(value)));
#elif defined(__AVX2__)
  return bit_cast<Register<double>>(_mm256_cvtps_pd(bit_cast<__m128>(value)));
#else
  return __builtin_convertvector(value, Register<double>);
#endif
}

TORCHBN_ALWAYS_INLINE Vector<uint16_t, kWidth<float>> narrow_bits(Register<uint32_t> bits) {
  using Narrow = Vector<uint16_t, kWidth<float>>;
#if defined(__AVX512F__)
  return bit_cast<Narrow>(_mm512_maskz_cvtepi32_epi16(0xffff, bit_cast<__m512i>(bits)));
#elif defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32(bit_cast<__m256i>(bits), _mm256_setzero_si256());
  return bit_cast<Narrow>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
#else
  return __builtin_convertvector(bits, Narrow);
#endif
}

template <int N>
TORCHBN_ALWAYS_INLINE Vector<float, N> load(const BFloat16* from) {
  return bit_cast<Vector<float, N>>(widen_bits<N>(from) << 16);
}

template <int N>
TORCHBN_ALWAYS_INLINE Vector<float, N> load(const Float16* from) {
#if defined(__F16C__)
  if constexpr (N == 4) {
    const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return bit_cast<Vector<float, N>>(_mm_cvtph_ps(bits));
  } else if constexpr (N == 8) {
    return bit_cast<Vector<float, N>>(_mm256_cvtph_ps(load_bits<__m128i>(from)));
  } else {
    static_assert(N == 16);
#if defined(__AVX512F__)
    return bit_cast<Vector<float, N>>(_mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(from)));
#endif
  }
#else
  Vector<float, N> value;
  for (int i = 0; i < N; ++i) value[i] = widen(from[i]);
  return value;
#endif
}

// One register of doubles.
template <typename T>
TORCHBN_ALWAYS_INLINE Register<double> load_double(const T* from) {
  return widen_to_double(load<kWidth<double>>(from));
}
TORCHBN_ALWAYS_INLINE Register<double> load_double(const double* from) {
  return load<kWidth<double>>(from);
}

// The lower (0) or upper (1) half of a register. By shuffles: through memory GCC would keep the
// register there all the time.
template <int kHalf, typename E, int... i>
TORCHBN_ALWAYS_INLINE auto shuffle_half(Register<E> value, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(value, value, kHalf * sizeof...(i) + i...);
}
template <int kHalf>
TORCHBN_ALWAYS_INLINE Register<double> half_to_double(Register<float> value) {
  return widen_to_double(
      shuffle_half<kHalf, float>(value, std::make_integer_sequence<int, kWidth<double>>{}));
}

// Whether a bit is set in any lane.
TORCHBN_ALWAYS_INLINE bool any(Register<int32_t> value) {
  using Half = std::make_integer_sequence<int, kWidth<int32_t> / 2>;
  const auto folded =
      shuffle_half<0, int32_t>(value, Half{}) | shuffle_half<1, int32_t>(value, Half{});
  int32_t bits = 0;
  for (int i = 0; i < kWidth<int32_t> / 2; ++i) bits |= folded[i];
  return bits != 0;
}

// Stores one register of results; past the caches if asked to, at an aligned address then.
template <bool kStream, typename V>
TORCHBN_ALWAYS_INLINE void put(void* to, V value) {
#if defined(__SSE2__)
  if constexpr (kStream) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64)
      return _mm512_stream_si512(static_cast<__m512i*>(to), bit_cast<__m512i>(value));
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(V) == 32)
      return _mm256_stream_si256(static_cast<__m256i*>(to), bit_cast<__m256i>(value));
#endif
    if constexpr (sizeof(V) == 16)
      return _mm_stream_si128(static_cast<__m128i*>(to), bit_cast<__m128i>(value));
  }
#endif
  store_bits(to, value);
}

template <bool kStream>
TORCHBN_ALWAYS_INLINE void store(float* to, Register<float> value) {
  put<kStream>(to, value);
}

template <bool kStream>
TORCHBN_ALWAYS_INLINE void store(double* to, Register<double> value) {
  put<kStream>(to, value);
}

// To nearest, ties to even, by integer arithmetic: the hardware's conversion flushes subnormals.
// NaN is cut instead, because rounding might carry it into the sign; it stays NaN, since arithmetic
// leaves only quiet ones.
template <bool kStream>
TORCHBN_ALWAYS_INLINE void store(BFloat16* to, Register<float> value) {
  using Bits = Register<uint32_t>;
  const Bits bits = bit_cast<Bits>(value);
  const Bits half_unit = ((bits >> 16) & 1u) + 0x7fffu;
  const Bits rounded = value == value ? bits + half_unit : bits;
  put<kStream>(to, narrow_bits(rounded >> 16));
}

template <bool kStream>
TORCHBN_ALWAYS_INLINE void store(Float16* to, Register<float> value) {
#if defined(__AVX512F__)
  put<kStream>(to,
               _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  put<kStream>(to, _mm256_cvtps_ph(bit_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kWidth<float>; ++i) to[i] = narrow<Float16>(value[i]);
#endif
}

}  // namespace
}  // namespace torchbn::cpu::vec
