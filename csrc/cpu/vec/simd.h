#pragma once

#include <concepts>
#include <cstdint>
#include <utility>

#include "core/integers.h"
#include "core/multiply_add.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Registers for the translation unit that includes this: arithmetic, conversions and shuffles.
// Everything here has internal linkage: an inline function shared by the translation units might be
// kept by the linker in its AVX-512 form. Core's functions are always inlined, and nothing of the
// standard library is called.
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

// Elements of a cache line.
template <typename T>
constexpr int64_t kLine = 64 / sizeof(T);

// How far ahead in a stream is prefetched. Left to itself the hardware keeps up with these loops
// only as long as the data lie in the last-level cache: beyond it this doubles the speed of a core.
template <typename T>
constexpr int64_t kElementsAhead = 4096 / sizeof(T);

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

// The value for each of `length` columns, and for some behind them: there is room for a register.
template <typename E>
TORCHBN_ALWAYS_INLINE void spread(E value, int64_t length, E* to) {
  for (int64_t i = 0; i < length; i += kWidth<E>) store_bits(to + i, broadcast(value));
}

// What is computed with.
template <typename V>
concept ComputeRegister = std::same_as<V, Register<float>> || std::same_as<V, Register<double>>;

// a * b + c, rounded once where there is an instruction for it: then it is the same on AVX2 and
// AVX-512.
template <ComputeRegister V>
TORCHBN_ALWAYS_INLINE V fused(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (std::same_as<V, Register<float>>)
    return bit_cast<V>(
        _mm512_fmadd_ps(bit_cast<__m512>(a), bit_cast<__m512>(b), bit_cast<__m512>(c)));
  else
    return bit_cast<V>(
        _mm512_fmadd_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b), bit_cast<__m512d>(c)));
#elif defined(__FMA__)
  if constexpr (std::same_as<V, Register<float>>)
    return bit_cast<V>(
        _mm256_fmadd_ps(bit_cast<__m256>(a), bit_cast<__m256>(b), bit_cast<__m256>(c)));
  else
    return bit_cast<V>(
        _mm256_fmadd_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b), bit_cast<__m256d>(c)));
#else
  return a * b + c;
#endif
}

// a - b, where many additions wait: as the sum of a product, which is exact, it takes another unit.
template <ComputeRegister V>
TORCHBN_ALWAYS_INLINE V subtract(V a, V b) {
#if defined(__FMA__)
  return fused(a, V{} + 1, -b);
#else
  return a - b;
#endif
}

// Has the value computed where this stands. Left to itself GCC puts a chain of sums off to where
// the last of them is used, and spills what is to be added: with 16 registers, a fifth of the time.
template <typename V>
TORCHBN_ALWAYS_INLINE void settle([[maybe_unused]] V& value) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  __asm__("" : "+x"(value));
#endif
}

// f(0), ..., f(N - 1) with constant arguments, so that arrays of registers stay in registers.
template <int N, typename F>
TORCHBN_ALWAYS_INLINE void unroll(const F& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

// Conversions that GCC 12 splits into halves when they are written as __builtin_convertvector are
// intrinsics, here and in elements.h; with masks where the plain form warns of an uninitialised
// register.

TORCHBN_ALWAYS_INLINE Register<double> widen_to_double(Vector<float, kWidth<double>> value) {
#if defined(__AVX512F__)
  return bit_cast<Register<double>>(_mm512_maskz_cvtps_pd(0xff, bit_cast<__m256>(value)));
#elif defined(__AVX2__)
  return bit_cast<Register<double>>(_mm256_cvtps_pd(bit_cast<__m128>(value)));
#else
  return __builtin_convertvector(value, Register<double>);
#endif
}

// The lower (0) or upper (1) half of a register. By shuffles: through memory GCC would keep the
// register there all the time.
template <int kHalf, typename V, int... i>
TORCHBN_ALWAYS_INLINE auto shuffle_half(V value, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(value, value, kHalf * sizeof...(i) + i...);
}
template <int kHalf>
TORCHBN_ALWAYS_INLINE Register<double> half_to_double(Register<float> value) {
  return widen_to_double(
      shuffle_half<kHalf>(value, std::make_integer_sequence<int, kWidth<double>>{}));
}

TORCHBN_ALWAYS_INLINE auto narrow_to_float(Register<double> value) {
  using Half = Vector<float, kWidth<double>>;
#if defined(__AVX512F__)
  return bit_cast<Half>(_mm512_maskz_cvtpd_ps(0xff, bit_cast<__m512d>(value)));
#elif defined(__AVX2__)
  return bit_cast<Half>(_mm256_cvtpd_ps(bit_cast<__m256d>(value)));
#else
  return __builtin_convertvector(value, Half);
#endif
}
template <typename Half, int... i>
TORCHBN_ALWAYS_INLINE Register<float> join_halves(Half lower, Half upper,
                                                  std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(lower, upper, i...);
}
TORCHBN_ALWAYS_INLINE Register<float> narrow_to_float(Register<double> lower,
                                                      Register<double> upper) {
  return join_halves(narrow_to_float(lower), narrow_to_float(upper),
                     std::make_integer_sequence<int, kWidth<float>>{});
}

// Whether a bit is set in any lane.
TORCHBN_ALWAYS_INLINE bool any(Register<int32_t> value) {
#if defined(__AVX512F__)
  const __m512i bits = bit_cast<__m512i>(value);
  return _mm512_test_epi32_mask(bits, bits) != 0;
#elif defined(__AVX2__)
  const __m256i bits = bit_cast<__m256i>(value);
  return _mm256_testz_si256(bits, bits) == 0;
#else
  int32_t bits = 0;
  for (int i = 0; i < kWidth<int32_t>; ++i) bits |= value[i];
  return bits != 0;
#endif
}

// The even (0) or the odd (1) elements of two registers that follow each other.
template <int kOdd, typename V, int... i>
TORCHBN_ALWAYS_INLINE auto every_other(V first, V second, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(first, second, (2 * i + kOdd)...);
}
template <int kOdd, typename V>
TORCHBN_ALWAYS_INLINE V every_other(V first, V second) {
  constexpr int kN = sizeof(V) / sizeof(first[0]);
  return every_other<kOdd>(first, second, std::make_integer_sequence<int, kN>{});
}

// The elements of two registers by turns: the lower (0) or the upper (1) half of them.
template <int kHalf, typename V, int... i>
TORCHBN_ALWAYS_INLINE V alternate(V first, V second, std::integer_sequence<int, i...>) {
  constexpr int kN = sizeof...(i);
  return __builtin_shufflevector(first, second, (kHalf * kN / 2 + i / 2 + i % 2 * kN)...);
}
template <int kHalf, typename V>
TORCHBN_ALWAYS_INLINE V alternate(V first, V second) {
  constexpr int kN = sizeof(V) / sizeof(first[0]);
  return alternate<kHalf>(first, second, std::make_integer_sequence<int, kN>{});
}

// The even (0) or the odd (1) ones of two registers of floats. On AVX2 without shuffles across the
// halves of a register, which take twice as long.
template <int kOdd>
TORCHBN_ALWAYS_INLINE Register<float> load_every_other(const float* from) {
  constexpr int kN = kWidth<float>;
#if defined(__AVX2__) && !defined(__AVX512F__)
  const auto quarters = [&](int i) __attribute__((always_inline)) {
    const __m256 lower = _mm256_castps128_ps256(_mm_loadu_ps(from + i));
    return _mm256_insertf128_ps(lower, _mm_loadu_ps(from + kN + i), 1);
  };
  return bit_cast<Register<float>>(_mm256_shuffle_ps(quarters(0), quarters(4), kOdd ? 0xdd : 0x88));
#else
  return every_other<kOdd>(load_bits<Register<float>>(from), load_bits<Register<float>>(from + kN));
#endif
}

}  // namespace
}  // namespace torchbn::cpu::vec

// For core's formulas.
template <torchbn::cpu::vec::ComputeRegister V>
struct torchbn::MultiplyAdd<V> {
  static TORCHBN_ALWAYS_INLINE V of(V a, V b, V c) { return torchbn::cpu::vec::fused(a, b, c); }
};
