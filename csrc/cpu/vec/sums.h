#pragma once

#include "cpu/vec/primitives.h"
#include "cpu/vec/simd.h"

// The reducing loops. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

constexpr int kDoubles = kWidth<double>;
constexpr int kDoubleRegisters = kLanes / kDoubles;

// kMask + n keeps the last n of kLanes lanes, kMask + 2 * kLanes - n the first n.
alignas(64) constexpr int64_t kMask[3 * kLanes] = {
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,   //
    -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,  //
    0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

TORCHBN_ALWAYS_INLINE Register<double> keep(Register<double> value, const int64_t* mask) {
  using Bits = Register<int64_t>;
  return bit_cast<Register<double>>(bit_cast<Bits>(value) & load_bits<Bits>(mask));
}

// The two sums of kLanes lanes in registers, as add_moments and add_gradient define them.
struct Accumulator {
  Register<double> first[kDoubleRegisters];
  Register<double> second[kDoubleRegisters];

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
};

// A pivot shared by all lanes, and one per lane.
struct SharedPivot {
  Register<double> value;

  explicit SharedPivot(double pivot) : value(broadcast(pivot)) {}
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

// What is summed, over kLanes contiguous elements. Masked lanes add zero, NaN and infinities
// notwithstanding, so that a partial block may be loaded together with its neighbours.

template <typename T>
struct Moments {
  const T* x;

  TORCHBN_ALWAYS_INLINE Moments operator+(int64_t offset) const { return {x + offset}; }
  // Into the second-level cache: rows a power of two apart share few sets of the first, where two
  // of these streams would evict each other (half the speed at 256 channels of float).
  TORCHBN_ALWAYS_INLINE void prefetch() const { __builtin_prefetch(x, 0, 2); }
  TORCHBN_ALWAYS_INLINE Moments copy(int64_t length, T (*buffer)[kLanes]) const {
    for (int64_t i = 0; i < length; ++i) buffer[0][i] = x[i];
    return {buffer[0]};
  }

  template <bool kMasked, typename Pivot>
  TORCHBN_ALWAYS_INLINE void add(Accumulator& sums, const Pivot& pivot, const int64_t* mask) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<double> shifted = load_double(x + i * kDoubles) - pivot[i];
      if constexpr (kMasked) shifted = keep(shifted, mask + i * kDoubles);
      sums.first[i] += shifted;
      sums.second[i] += shifted * shifted;
    });
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
  TORCHBN_ALWAYS_INLINE Gradients copy(int64_t length, T (*buffer)[kLanes]) const {
    for (int64_t i = 0; i < length; ++i) {
      buffer[0][i] = dy[i];
      buffer[1][i] = x[i];
    }
    return {buffer[0], buffer[1]};
  }

  template <bool kMasked, typename Pivot>
  TORCHBN_ALWAYS_INLINE void add(Accumulator& sums, const Pivot& mean, const int64_t* mask) const {
    unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<double> grad = load_double(dy + i * kDoubles);
      Register<double> centered = load_double(x + i * kDoubles) - mean[i];
      if constexpr (kMasked) {
        grad = keep(grad, mask + i * kDoubles);
        centered = keep(centered, mask + i * kDoubles);
      }
      sums.first[i] += grad;
      sums.second[i] += grad * centered;
    });
  }
};

// Rows of one channel lie far apart: towards the end of a row the start of the next, this many
// blocks, is prefetched. The hardware would notice too late, and not cross the page.
constexpr int64_t kAhead = 64;

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_strip(const Source& source, const Strip& strip, double pivot_value,
                                     Lanes& lanes) {
  const SharedPivot pivot(pivot_value);
  Accumulator sums;
  sums.load(lanes.first, lanes.second);
  const int64_t blocks = strip.length / kLanes;
  const int64_t tail = strip.length % kLanes;
  for (int64_t row = 0; row < strip.rows; ++row) {
    const Source run = source + row * strip.stride;
    const int64_t unhurried = blocks > kAhead ? blocks - kAhead : 0;
    const Source next = run + (strip.stride - unhurried * kLanes);
    int64_t block = 0;
    for (; block < unhurried; ++block)
      (run + block * kLanes).template add<false>(sums, pivot, nullptr);
    for (; block < blocks; ++block) {
      (next + block * kLanes).prefetch();
      (run + block * kLanes).template add<false>(sums, pivot, nullptr);
    }
    if (tail == 0) continue;
    if (blocks > 0) {
      (run + (strip.length - kLanes)).template add<true>(sums, pivot, kMask + tail);
    } else {
      T buffer[2][kLanes] = {};
      run.copy(tail, buffer).template add<true>(sums, pivot, kMask + 2 * kLanes - tail);
    }
  }
  sums.store(lanes.first, lanes.second);
}

// Rows that share one load and store of their columns' sums: enough to make these cheap. The
// hardware follows few streams, so the next rows are prefetched while these are summed.
constexpr int64_t kSumRows = 8;

template <typename T, bool kMasked, typename Source>
TORCHBN_ALWAYS_INLINE void add_columns(const Source& source, int64_t rows, int64_t stride,
                                       const double* pivots, double* first, double* second,
                                       const int64_t* mask) {
  const LanePivots pivot(pivots);
  Accumulator sums;
  sums.load(first, second);
  for (int64_t row = 0; row < rows; ++row) {
    (source + (row + kSumRows) * stride).prefetch();
    (source + row * stride).template add<kMasked>(sums, pivot, mask);
  }
  sums.store(first, second);
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_panel(const Source& source, const Strip& strip, const double* pivots,
                                     double* first, double* second) {
  const int64_t whole = strip.length / kLanes * kLanes;
  const int64_t tail = strip.length - whole;
  for (int64_t row = 0; row < strip.rows; row += kSumRows) {
    const int64_t rows = strip.rows - row < kSumRows ? strip.rows - row : kSumRows;
    const Source block = source + row * strip.stride;
    for (int64_t i = 0; i < whole; i += kLanes)
      add_columns<T, false>(block + i, rows, strip.stride, pivots + i, first + i, second + i,
                            nullptr);
    if (tail == 0) continue;
    if (whole > 0) {
      const int64_t i = strip.length - kLanes;
      add_columns<T, true>(block + i, rows, strip.stride, pivots + i, first + i, second + i,
                           kMask + tail);
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        T buffer[2][kLanes] = {};
        add_columns<T, true>((block + r * strip.stride).copy(tail, buffer), 1, 0, pivots, first,
                             second, kMask + 2 * kLanes - tail);
      }
    }
  }
}

template <typename T>
void add_moments(const T* x, const Strip& strip, double pivot, Lanes& sums) {
  add_strip<T>(Moments<T>{x}, strip, pivot, sums);
}

template <typename T>
void add_gradient(const T* dy, const T* x, const Strip& strip, double mean, Lanes& sums) {
  add_strip<T>(Gradients<T>{dy, x}, strip, mean, sums);
}

template <typename T>
void add_column_moments(const T* x, const Strip& strip, const double* pivots, double* first,
                        double* second) {
  add_panel<T>(Moments<T>{x}, strip, pivots, first, second);
}

template <typename T>
void add_column_gradient(const T* dy, const T* x, const Strip& strip, const double* means,
                         double* first, double* second) {
  add_panel<T>(Gradients<T>{dy, x}, strip, means, first, second);
}

}  // namespace
}  // namespace torchbn::cpu::vec
