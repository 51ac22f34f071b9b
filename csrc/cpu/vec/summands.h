#pragma once

#include "cpu/vec/accumulators.h"

// What the reducing loops add up. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

// Half types come as floats, and float arithmetic does twice as many values per instruction as
// double: with half the bytes to read, the arithmetic would be what takes the time. It is exact
// enough for a few blocks, about centres near the values of each lane; the sums go on in double.
// Fewer blocks are not worth moving. The variance may be off by 1e-6, and each addition rounds by
// up to 2^-24 of a lane's sum, for like values always to the same side: so chains of a few blocks
// are added up first, eight of a run and four of columns.
template <typename T>
constexpr bool kSumsInFloat = sizeof(T) == 2;
constexpr int64_t kLeastFloatBlocks = 8;
constexpr int64_t kMostFloatBlocks = 64;

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

// Some of the blocks of a bundle, evenly spread; powers of two of them. Those of a row come in
// pairs, which are a cache line.
struct Sample {
  int64_t rows;
  int64_t row_step;
  int64_t blocks;
  int64_t pair_step;
};

// One more summand of a chain.
template <typename V>
TORCHBN_ALWAYS_INLINE void add_to(V& sum, V value) {
  sum += value;
  settle(sum);
}

// kLanes values about the centres of their sums.
template <typename T>
TORCHBN_ALWAYS_INLINE FloatLanes centered(const T* x, const FloatAccumulator& sums) {
  FloatLanes values = load_lanes(x);
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    values[i] = subtract(values[i], sums.center[i]);
  });
  return values;
}

// What is summed, over kLanes contiguous elements. Masked lanes add zero, NaN and infinities
// notwithstanding, so that a partial block may be loaded together with its neighbours.

template <typename T>
struct MomentSource {
  using Element = T;
  static constexpr int kTensors = 1;

  const T* x;

  TORCHBN_ALWAYS_INLINE MomentSource operator+(int64_t offset) const { return {x + offset}; }
  // Into the second-level cache: rows a power of two apart share few sets of the first, where two
  // of these streams would evict each other (half the speed at 256 channels of float).
  TORCHBN_ALWAYS_INLINE void prefetch() const { __builtin_prefetch(x, 0, 2); }
  // The same values in a buffer where kLanes may be read from each row.
  TORCHBN_ALWAYS_INLINE MomentSource copy(int64_t rows, int64_t stride, int64_t length,
                                          Padded<T>* buffers) const {
    return {buffers[0].fill(x, rows, stride, length)};
  }

  template <bool kMasked, typename Pivot>
  TORCHBN_ALWAYS_INLINE void add(Accumulator& sums, const Pivot& pivot, const int64_t* mask) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<double> shifted = subtract(load_double(x + i * kDoubles), pivot[i]);
      if constexpr (kMasked) shifted = keep(shifted, mask + i * kDoubles);
      add_to(sums.first[i], shifted);
      sums.second[i] = fused(shifted, shifted, sums.second[i]);
    });
  }

  // Lanes of floats about centres: sum(x - c), sum((x - c)^2).
  template <bool kMasked>
  TORCHBN_ALWAYS_INLINE void add(FloatAccumulator& sums, const int32_t* mask) const {
    FloatLanes e = centered(x, sums);
    if constexpr (kMasked) e = keep_loaded<T>(e, mask);
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      add_to(sums.first[i], e[i]);
      sums.second[i] = fused(e[i], e[i], sums.second[i]);
    });
  }

  // The means of a sample. Those of equal values are exact.
  template <typename Pivot>
  TORCHBN_ALWAYS_INLINE void set_centers(FloatAccumulator& sums, const Pivot&,
                                         const Sample& sample) const {
    FloatLanes total = {};
    for (int64_t row = 0; row < sample.rows; ++row) {
      for (int64_t block = 0; block < sample.blocks; ++block) {
        const int64_t offset = block / 2 * sample.pair_step + block % 2 * kLanes;
        const FloatLanes values = load_lanes(x + row * sample.row_step + offset);
        unroll<kFloatRegisters>([&](auto i)
                                    __attribute__((always_inline)) { total[i] += values[i]; });
      }
    }
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      sums.center[i] = total[i] * broadcast(1.0f / static_cast<float>(sample.rows * sample.blocks));
    });
  }

  // Squares below 1e-30 have lost bits to underflow, or are those of equal values. A centre farther
  // from the mean of the n values than their standard deviation makes the squares about it more
  // than twice those about the mean, and so a rounding of theirs: rare for normal values, of which
  // the centre is the mean of up to 16.
  static TORCHBN_ALWAYS_INLINE Register<int32_t> inexact(Register<float> first,
                                                         Register<float> second,
                                                         Register<float> n) {
    return ~((second >= 1e-30f) & (second <= 3e38f) & (2 * first * first <= n * second));
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
struct GradientSource {
  using Element = T;
  static constexpr int kTensors = 2;

  const T* dy;
  const T* x;

  TORCHBN_ALWAYS_INLINE GradientSource operator+(int64_t offset) const {
    return {dy + offset, x + offset};
  }
  TORCHBN_ALWAYS_INLINE void prefetch() const {
    __builtin_prefetch(dy, 0, 2);
    __builtin_prefetch(x, 0, 2);
  }
  TORCHBN_ALWAYS_INLINE GradientSource copy(int64_t rows, int64_t stride, int64_t length,
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
      add_to(sums.first[i], grad);
      sums.second[i] = fused(grad, centered, sums.second[i]);
    });
  }

  // Lanes of floats: sum(dy), sum(dy * (x - c)).
  template <bool kMasked>
  TORCHBN_ALWAYS_INLINE void add(FloatAccumulator& sums, const int32_t* mask) const {
    FloatLanes grad = load_lanes(dy);
    FloatLanes e = centered(x, sums);
    if constexpr (kMasked) {
      grad = keep_loaded<T>(grad, mask);
      e = keep_loaded<T>(e, mask);
    }
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      add_to(sums.first[i], grad[i]);
      sums.second[i] = fused(grad[i], e[i], sums.second[i]);
    });
  }

  // The high parts of the means.
  template <typename Pivot>
  TORCHBN_ALWAYS_INLINE void set_centers(FloatAccumulator& sums, const Pivot& mean,
                                         const Sample&) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      sums.center[i] = mean.high_part(i);
    });
    sort_as_loaded<T>(sums.center.registers);
  }

  // Products below 1e-30 have lost bits to underflow, unless they are those of no gradient.
  static TORCHBN_ALWAYS_INLINE Register<int32_t> inexact(Register<float> first,
                                                         Register<float> second, Register<float>) {
    const Register<int32_t> large = (second >= 1e-30f) | (second <= -1e-30f) | (first == 0);
    return ~((first - first == 0) & (second - second == 0) & large);
  }

  static TORCHBN_ALWAYS_INLINE Register<double> moved(Register<double> first,
                                                      Register<double> second, Register<double> d,
                                                      Register<double>,
                                                      Register<double>& moved_second) {
    moved_second = second + d * first;
    return first;
  }
};

}  // namespace
}  // namespace torchbn::cpu::vec
