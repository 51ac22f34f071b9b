#pragma once

#include "cpu/vec/primitives.h"
#include "cpu/vec/simd.h"

// What the reducing loops add up, and in what. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

constexpr int kDoubles = kWidth<double>;
constexpr int kDoubleRegisters = kLanes / kDoubles;
constexpr int kFloats = kWidth<float>;
constexpr int kFloatRegisters = kLanes / kFloats;

// kMask + n keeps the last n of kLanes lanes, kMask + 2 * kLanes - n the first n.
alignas(64) constexpr int64_t kMask[3 * kLanes] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,   //
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

TORCHBN_ALWAYS_INLINE Register<double> keep(Register<double> value, const int64_t* mask) {
  using Bits = Register<int64_t>;
  return bit_cast<Register<double>>(bit_cast<Bits>(value) & load_bits<Bits>(mask));
}

// The same for floats.
alignas(64) constexpr int32_t kFloatMask[3 * kLanes] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,   //
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

TORCHBN_ALWAYS_INLINE Register<float> keep(Register<float> value, const int32_t* mask) {
  using Bits = Register<int32_t>;
  return bit_cast<Register<float>>(bit_cast<Bits>(value) & load_bits<Bits>(mask));
}

// The two sums of kLanes lanes in registers, as add_moments and add_gradient define them.
struct Accumulator {
  static constexpr const int64_t* kMask = vec::kMask;

  Register<double> first[kDoubleRegisters];
  Register<double> second[kDoubleRegisters];

  TORCHBN_ALWAYS_INLINE Accumulator fresh() const { return {}; }

  TORCHBN_ALWAYS_INLINE void load(const double* from_first, const double* from_second) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] = load_bits<Register<double>>(from_first + i * kDoubles);
      second[i] = load_bits<Register<double>>(from_second + i * kDoubles);
    });
  }

  TORCHBN_ALWAYS_INLINE void store(double* to_first, double* to_second) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(to_first + i * kDoubles, first[i]);
      store_bits(to_second + i * kDoubles, second[i]);
    });
  }

  TORCHBN_ALWAYS_INLINE void operator+=(const Accumulator& other) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] += other.first[i];
      second[i] += other.second[i];
    });
  }

  // Leaves the lanes of the mask, zeros elsewhere.
  TORCHBN_ALWAYS_INLINE void keep_lanes(const int64_t* mask) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] = keep(first[i], mask + i * kDoubles);
      second[i] = keep(second[i], mask + i * kDoubles);
    });
  }
};

// The same in float, about a centre for each lane.
struct FloatAccumulator {
  static constexpr const int32_t* kMask = kFloatMask;

  Register<float> center[kFloatRegisters];
  Register<float> first[kFloatRegisters];
  Register<float> second[kFloatRegisters];

  TORCHBN_ALWAYS_INLINE void load(const float* from_center, const float* from_first,
                                  const float* from_second) {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      center[i] = load_bits<Register<float>>(from_center + i * kFloats);
      first[i] = load_bits<Register<float>>(from_first + i * kFloats);
      second[i] = load_bits<Register<float>>(from_second + i * kFloats);
    });
  }

  TORCHBN_ALWAYS_INLINE FloatAccumulator fresh() const {
    FloatAccumulator result = {};
    unroll<kFloatRegisters>([&](auto i)
                                __attribute__((always_inline)) { result.center[i] = center[i]; });
    return result;
  }

  TORCHBN_ALWAYS_INLINE void operator+=(const FloatAccumulator& other) {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      first[i] += other.first[i];
      second[i] += other.second[i];
    });
  }

  TORCHBN_ALWAYS_INLINE void store_centers(float* to) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(to + i * kFloats, center[i]);
    });
  }

  TORCHBN_ALWAYS_INLINE void store(float* to_first, float* to_second) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(to_first + i * kFloats, first[i]);
      store_bits(to_second + i * kFloats, second[i]);
    });
  }
};

// A pivot shared by all lanes, and one per lane.
struct SharedPivot {
  Register<double> value;

  TORCHBN_ALWAYS_INLINE explicit SharedPivot(double pivot) : value(broadcast(pivot)) {}
  TORCHBN_ALWAYS_INLINE Register<double> operator[](int) const { return value; }
};
struct LanePivots {
  Register<double> value[kDoubleRegisters];

  TORCHBN_ALWAYS_INLINE explicit LanePivots(const double* pivots) {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      value[i] = load_bits<Register<double>>(pivots + i * kDoubles);
    });
  }
  TORCHBN_ALWAYS_INLINE Register<double> operator[](int i) const { return value[i]; }
};

// Half types come as floats, and float arithmetic does twice as many values per instruction as
// double: with half the bytes to read, the arithmetic would be what takes the time. It is exact
// enough for a few blocks, about centres near the values of each lane; the sums go on in double.
// Fewer blocks are not worth moving. With more, rounding 2^-24 of a lane's sum at each step could
// come near the 1e-6 that the variance may be off; so it is 1e-7.
template <typename T>
constexpr bool kSumsInFloat = sizeof(T) == 2;
constexpr int64_t kLeastFloatBlocks = 8;
constexpr int64_t kMostFloatBlocks = 32;

// Rows shorter than a block, each with room for one.
template <typename T>
struct Padded {
  T values[kMostFloatBlocks][kLanes] = {};

  TORCHBN_ALWAYS_INLINE const T* fill(const T* from, int64_t rows, int64_t stride, int64_t length) {
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < length; ++i) values[row][i] = from[row * stride + i];
    return values[0];
  }
};

// What is summed, over kLanes contiguous elements. Masked lanes add zero, NaN and infinities
// notwithstanding, so that a partial block may be loaded together with its neighbours.

template <typename T>
struct Moments {
  const T* x;

  TORCHBN_ALWAYS_INLINE Moments operator+(int64_t offset) const { return {x + offset}; }
  // Into the second-level cache: rows a power of two apart share few sets of the first, where two
  // of these streams would evict each other (half the speed at 256 channels of float).
  TORCHBN_ALWAYS_INLINE void prefetch() const { __builtin_prefetch(x, 0, 2); }
  // The same values in a buffer where kLanes may be read from each row.
  TORCHBN_ALWAYS_INLINE Moments copy(int64_t rows, int64_t stride, int64_t length,
                                     Padded<T>* buffers) const {
    return {buffers[0].fill(x, rows, stride, length)};
  }

  template <bool kMasked, typename Pivot>
  TORCHBN_ALWAYS_INLINE void add(Accumulator& sums, const Pivot& pivot, const int64_t* mask) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<double> shifted = subtract(load_double(x + i * kDoubles), pivot[i]);
      if constexpr (kMasked) shifted = keep(shifted, mask + i * kDoubles);
      sums.first[i] += shifted;
      sums.second[i] += shifted * shifted;
    });
  }

  // Lanes of floats about centres: sum(x - c), sum((x - c)^2).
  template <bool kMasked>
  TORCHBN_ALWAYS_INLINE void add(FloatAccumulator& sums, const int32_t* mask) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<float> e = subtract(load<kFloats>(x + i * kFloats), sums.center[i]);
      if constexpr (kMasked) e = keep(e, mask + i * kFloats);
      sums.first[i] += e;
      sums.second[i] += e * e;
    });
  }

  // The mean of some blocks that lie `stride` elements apart. A power of two of them: the mean of
  // equal values is exact.
  template <typename Pivot>
  TORCHBN_ALWAYS_INLINE void set_centers(FloatAccumulator& sums, const Pivot&, int64_t samples,
                                         int64_t stride) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<float> total = load<kFloats>(x + i * kFloats);
      for (int64_t k = 1; k < samples; ++k) total += load<kFloats>(x + k * stride + i * kFloats);
      sums.center[i] = total * broadcast(1.0f / static_cast<float>(samples));
    });
  }

  // Squares below this have lost bits to underflow, or are those of equal values.
  static TORCHBN_ALWAYS_INLINE Register<int32_t> out_of_range(Register<float>,
                                                              Register<float> second) {
    return ~((second >= 1e-30f) & (second <= 3e38f));
  }

  // Moves sums of n values about c to the pivot, with d = c - pivot.
  static TORCHBN_ALWAYS_INLINE Register<double> moved(Register<double> first,
                                                      Register<double> second, Register<double> d,
                                                      Register<double> n,
                                                      Register<double>& moved_second) {
    const Register<double> moved_first = first + d * n;
    moved_second = second + d * (first + moved_first);
    return moved_first;
  }
};

template <typename T>
struct Gradients {
  const T* dy;
  const T* x;

  TORCHBN_ALWAYS_INLINE Gradients operator+(int64_t offset) const {
    return {dy + offset, x + offset};
  }
  TORCHBN_ALWAYS_INLINE void prefetch() const {
    __builtin_prefetch(dy, 0, 2);
    __builtin_prefetch(x, 0, 2);
  }
  TORCHBN_ALWAYS_INLINE Gradients copy(int64_t rows, int64_t stride, int64_t length,
                                       Padded<T>* buffers) const {
    return {buffers[0].fill(dy, rows, stride, length), buffers[1].fill(x, rows, stride, length)};
  }

  template <bool kMasked, typename Pivot>
  TORCHBN_ALWAYS_INLINE void add(Accumulator& sums, const Pivot& mean, const int64_t* mask) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<double> grad = load_double(dy + i * kDoubles);
      Register<double> centered = subtract(load_double(x + i * kDoubles), mean[i]);
      if constexpr (kMasked) {
        grad = keep(grad, mask + i * kDoubles);
        centered = keep(centered, mask + i * kDoubles);
      }
      sums.first[i] += grad;
      sums.second[i] += grad * centered;
    });
  }

  // Lanes of floats: sum(dy), sum(dy * (x - c)).
  template <bool kMasked>
  TORCHBN_ALWAYS_INLINE void add(FloatAccumulator& sums, const int32_t* mask) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<float> grad = load<kFloats>(dy + i * kFloats);
      Register<float> e = subtract(load<kFloats>(x + i * kFloats), sums.center[i]);
      if constexpr (kMasked) {
        grad = keep(grad, mask + i * kFloats);
        e = keep(e, mask + i * kFloats);
      }
      sums.first[i] += grad;
      sums.second[i] += grad * e;
    });
  }

  // The high part of the mean.
  template <typename Pivot>
  TORCHBN_ALWAYS_INLINE void set_centers(FloatAccumulator& sums, const Pivot& mean, int64_t,
                                         int64_t) const {
    alignas(64) double means[kLanes];
    alignas(64) float high[kLanes];
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      store_bits(means + i * kDoubles, mean[i]);
    });
    for (int i = 0; i < kLanes; ++i) high[i] = static_cast<float>(means[i]);
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      sums.center[i] = load<kFloats>(high + i * kFloats);
    });
  }

  static TORCHBN_ALWAYS_INLINE Register<int32_t> out_of_range(Register<float> first,
                                                              Register<float> second) {
    return ~((first - first == 0) & (second - second == 0));
  }

  static TORCHBN_ALWAYS_INLINE Register<double> moved(Register<double> first,
                                                      Register<double> second, Register<double> d,
                                                      Register<double>,
                                                      Register<double>& moved_second) {
    moved_second = second + d * first;
    return first;
  }
};

// What is summed in float before it is moved to double: `rows` rows, `stride` elements apart, of
// `blocks` whole blocks and, where `tail` is not zero, a last one of which that many lanes are left
// that the blocks before it have not.
struct Bundle {
  int64_t rows;
  int64_t blocks;
  int64_t tail;
  int64_t stride;

  int64_t length() const { return blocks * kLanes + tail; }
  int64_t count() const { return rows * (blocks + (tail > 0)); }
};

// Sums of so many blocks go on in registers of their own: rounding errors stay those of few
// additions, and additions that do not wait for each other fill the units of the processor.
constexpr int kChained = 8;

template <typename Sums, typename Source, typename... Arguments>
TORCHBN_ALWAYS_INLINE void add_row(const Source& row, const Bundle& bundle, Sums& sums,
                                   const Arguments&... arguments) {
  const auto mask = Sums::kMask + bundle.tail;
  const auto add = [&](int64_t block, Sums & part) __attribute__((always_inline)) {
    (row + block * kLanes).template add<false>(part, arguments..., mask);
  };
  int64_t block = 0;
  for (; block + kChained <= bundle.blocks; block += kChained) {
    Sums part = sums.fresh();
    unroll<kChained>([&](auto i) __attribute__((always_inline)) { add(block + i, part); });
    sums += part;
  }
  if (block == bundle.blocks && bundle.tail == 0) return;
  Sums part = sums.fresh();
  for (; block < bundle.blocks; ++block) add(block, part);
  if (bundle.tail > 0)
    (row + (bundle.length() - kLanes)).template add<true>(part, arguments..., mask);
  sums += part;
}

template <typename Sums, typename Source, typename... Arguments>
TORCHBN_ALWAYS_INLINE void add_rows(const Source& source, const Bundle& bundle, Sums& sums,
                                    const Arguments&... arguments) {
  for (int64_t row = 0; row < bundle.rows; ++row)
    add_row(source + row * bundle.stride, bundle, sums, arguments...);
}

// Of every eight values of a lane at least one is in its centre: so no value, however far off, is
// more than an eighth of what the centre is made of, and the squares exceed those about the mean by
// a factor of eight at most.
template <typename Source, typename Pivot>
TORCHBN_ALWAYS_INLINE void set_centers(const Source& source, const Bundle& bundle,
                                       const Pivot& pivot, FloatAccumulator& sums) {
  constexpr int64_t kSampled = 8;
  const int64_t candidates = bundle.rows > 1 ? bundle.rows : bundle.blocks;
  int64_t samples = 1;
  while (samples * 2 * kSampled <= bundle.count() && samples * 2 <= candidates) samples *= 2;
  source.set_centers(sums, pivot, samples,
                     candidates / samples * (bundle.rows > 1 ? bundle.stride : kLanes));
}

// The float sums of a bundle as double ones about the pivots. A lane where float's range did not
// suffice is summed again: each lane for itself, so that its bits do not depend on its neighbours.
template <typename Source, typename Pivot>
TORCHBN_ALWAYS_INLINE Accumulator to_double(const FloatAccumulator& part, const Source& source,
                                            const Bundle& bundle, const Pivot& pivot) {
  Accumulator sums;
  const Register<double> whole = broadcast(static_cast<double>(bundle.rows * bundle.blocks));
  const Register<double> rows = broadcast(static_cast<double>(bundle.rows));
  unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
    constexpr int kRegister = i / 2;
    constexpr int kHalf = i % 2;
    const Register<double> d = half_to_double<kHalf>(part.center[kRegister]) - pivot[i];
    const Register<double> n = whole + keep(rows, kMask + bundle.tail + i * kDoubles);
    sums.first[i] =
        Source::moved(half_to_double<kHalf>(part.first[kRegister]),
                      half_to_double<kHalf>(part.second[kRegister]), d, n, sums.second[i]);
  });

  Register<int32_t> outside[kFloatRegisters];
  Register<int32_t> outside_any = {};
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    outside[i] = Source::out_of_range(part.first[i], part.second[i]);
    outside_any |= outside[i];
  });
  if (__builtin_expect(any(outside_any), 0)) {
    Accumulator again = {};
    add_rows(source, bundle, again, pivot);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!outside[lane / kFloats][lane % kFloats]) continue;
      sums.first[lane / kDoubles][lane % kDoubles] = again.first[lane / kDoubles][lane % kDoubles];
      sums.second[lane / kDoubles][lane % kDoubles] =
          again.second[lane / kDoubles][lane % kDoubles];
    }
  }
  return sums;
}

}  // namespace
}  // namespace torchbn::cpu::vec
