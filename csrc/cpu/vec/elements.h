#pragma once

#include <concepts>
#include <cstdint>

#include "core/dtype.h"
#include "cpu/vec/simd.h"

// Elements of each type in memory, as registers of what is computed with. Internal linkage: see
// simd.h.
namespace torchbn::cpu::vec {
namespace {

// N elements as they are computed with: float, or double for double.

template <int N>
TORCHBN_ALWAYS_INLINE Vector<float, N> load(const float* from) {
  return load_bits<Vector<float, N>>(from);
}

template <int N>
TORCHBN_ALWAYS_INLINE Vector<double, N> load(const double* from) {
  return load_bits<Vector<double, N>>(from);
}

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
  Vector<float, N> value = {};
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

// Stores one register of results; past the caches if asked to, at an aligned address then.
template <bool kPastCaches, typename V>
TORCHBN_ALWAYS_INLINE void put(void* to, V value) {
#if defined(__SSE2__)
  if constexpr (kPastCaches) {
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

// Registers of results that are stored together: two of half types, which make one.
template <typename T>
constexpr int kStoredRegisters = sizeof(T) == 2 ? 2 : 1;

template <bool kPastCaches>
TORCHBN_ALWAYS_INLINE void store(float* to, const Register<float> (&values)[1]) {
  put<kPastCaches>(to, values[0]);
}

template <bool kPastCaches>
TORCHBN_ALWAYS_INLINE void store(double* to, const Register<double> (&values)[1]) {
  put<kPastCaches>(to, values[0]);
}

// To nearest, ties to even, by integer arithmetic: the hardware's conversion, where there is one,
// flushes subnormals.
// The upper half of each lane is the result. NaN stays NaN as long as its lower half is zero: that
// of values of half types is, and of coefficients, and arithmetic invents no other.
TORCHBN_ALWAYS_INLINE Register<uint32_t> round_upper_half(Register<float> value) {
  using Bits = Register<uint32_t>;
#if defined(__AVX512F__)
  const __m512i bits = bit_cast<__m512i>(value);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i down = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return bit_cast<Bits>(_mm512_mask_sub_epi32(down, odd, down, _mm512_set1_epi32(-1)));
#else
  const Bits bits = bit_cast<Bits>(value);
  return bits + (((bits >> 16) & 1u) + 0x7fffu);
#endif
}

template <bool kPastCaches, int kCount>
TORCHBN_ALWAYS_INLINE void store(BFloat16* to, const Register<float> (&values)[kCount]) {
#if defined(__AVX512BF16__)
  constexpr int kSubnormal = 0x20;
  const __m512 lower = bit_cast<__m512>(values[0]);
  const __m512 upper = bit_cast<__m512>(values[kCount - 1]);
  const auto subnormal = static_cast<__mmask16>(_mm512_fpclass_ps_mask(lower, kSubnormal) |
                                                _mm512_fpclass_ps_mask(upper, kSubnormal));
  if (__builtin_expect(subnormal == 0, 1)) {
    if constexpr (kCount == 2)
      return put<kPastCaches>(to, bit_cast<__m512i>(_mm512_cvtne2ps_pbh(upper, lower)));
    else
      return put<kPastCaches>(to, bit_cast<__m256i>(_mm512_cvtneps_pbh(lower)));
  }
#endif
  using Halves = Register<uint16_t>;
  constexpr std::make_integer_sequence<int, kCount * kWidth<float>> kEach;
  put<kPastCaches>(to,
                   every_other<1>(bit_cast<Halves>(round_upper_half(values[0])),
                                  bit_cast<Halves>(round_upper_half(values[kCount - 1])), kEach));
}

// Two registers may also hold the even and the odd ones of their elements: then no instruction has
// to move values across lanes. Not worth it where the hardware converts.
#if defined(__AVX512BF16__)
template <typename T>
constexpr bool kLoadsPairs = false;
#else
template <typename T>
constexpr bool kLoadsPairs = std::same_as<T, BFloat16>;
#endif

TORCHBN_ALWAYS_INLINE void load_pairs(const BFloat16* from, Register<float>& even,
                                      Register<float>& odd) {
  const auto pairs = load_bits<Register<uint32_t>>(from);
  even = bit_cast<Register<float>>(pairs << 16);
  odd = bit_cast<Register<float>>(pairs & 0xffff0000u);
}

template <bool kPastCaches>
TORCHBN_ALWAYS_INLINE void store_pairs(BFloat16* to, const Register<float> (&values)[2]) {
  const auto even = round_upper_half(values[0]) >> 16;
  const auto odd = round_upper_half(values[1]);
#if defined(__AVX2__) && !defined(__AVX512F__)
  put<kPastCaches>(to, _mm256_blend_epi16(bit_cast<__m256i>(even), bit_cast<__m256i>(odd), 0xaa));
#else
  put<kPastCaches>(to, even | (odd & 0xffff0000u));
#endif
}

template <bool kPastCaches, int kCount>
TORCHBN_ALWAYS_INLINE void store(Float16* to, const Register<float> (&values)[kCount]) {
#if defined(__F16C__)
  unroll<kCount>([&](auto i) __attribute__((always_inline)) {
    Float16* part = to + i * kWidth<float>;
#if defined(__AVX512F__)
    put<kPastCaches>(part, _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(values[i]),
                                                 _MM_FROUND_TO_NEAREST_INT));
#else
    // The instruction that converts into memory is slower than this and a store.
    __m128i halves = _mm256_cvtps_ph(bit_cast<__m256>(values[i]), _MM_FROUND_TO_NEAREST_INT);
    settle(halves);
    put<kPastCaches>(part, halves);
#endif
  });
#else
  for (int i = 0; i < kCount * kWidth<float>; ++i)
    to[i] = narrow<Float16>(values[i / kWidth<float>][i % kWidth<float>]);
#endif
}

}  // namespace
}  // namespace torchbn::cpu::vec
