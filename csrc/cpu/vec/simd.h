#pragma once

#include <concepts>
#include <cstdint>
#include <utility>

#include "core/dtype.h"
#include "core/integers.h"
#include "core/multiply_add.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

// Registers and conversions for the translation unit that includes this. Everything here has
// internal linkage: an inline function shared by the translation units might be kept by the linker
// in its AVX-512 form. Core's functions are always inlined, and nothing of the standard library is
// called.
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
  return every_other<kOdd>(load<kN>(from), load<kN>(from + kN));
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

// For core's formulas.
template <torchbn::cpu::vec::ComputeRegister V>
struct torchbn::MultiplyAdd<V> {
  static TORCHBN_ALWAYS_INLINE V of(V a, V b, V c) { return torchbn::cpu::vec::fused(a, b, c); }
};
