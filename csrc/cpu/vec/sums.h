#pragma once

#include "cpu/vec/primitives.h"
#include "cpu/vec/simd.h"

// The reducing loops. Internal linkage: see simd.h.
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

// The same in float, about a centre for each lane.
struct FloatAccumulator {
  Register<float> center[kFloatRegisters];
  Register<float> first[kFloatRegisters];
  Register<float> second[kFloatRegisters];
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

  // Lanes of floats about centres: sum(x - c), sum((x - c)^2).
  TORCHBN_ALWAYS_INLINE void add(FloatAccumulator& sums) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      const Register<float> e = load<kFloats>(x + i * kFloats) - sums.center[i];
      sums.first[i] += e;
      sums.second[i] += e * e;
    });
  }

  // The mean of every eighth block: no value, however far off, is more than an eighth of what its
  // lane's centre is made of, so that the squares exceed those about the mean by a factor of eight
  // at most. A power of two of them: the mean of equal values is exact.
  template <typename Pivot>
  TORCHBN_ALWAYS_INLINE void set_centers(FloatAccumulator& sums, const Pivot&, int64_t blocks,
                                         int64_t stride) const {
    int64_t samples = 1;
    while (samples * 2 * kSampled <= blocks) samples *= 2;
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      Register<float> total = load<kFloats>(x + i * kFloats);
      for (int64_t k = 1; k < samples; ++k)
        total += load<kFloats>(x + k * kSampled * stride + i * kFloats);
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
                                                      double n, Register<double>& moved_second) {
    const Register<double> moved_first = first + d * n;
    moved_second = second + d * (first + moved_first);
    return moved_first;
  }

  static constexpr int64_t kSampled = 8;
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

  // Lanes of floats: sum(dy), sum(dy * (x - c)).
  TORCHBN_ALWAYS_INLINE void add(FloatAccumulator& sums) const {
    unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
      const Register<float> grad = load<kFloats>(dy + i * kFloats);
      sums.first[i] += grad;
      sums.second[i] += grad * (load<kFloats>(x + i * kFloats) - sums.center[i]);
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
                                                      double, Register<double>& moved_second) {
    moved_second = second + d * first;
    return first;
  }
};

// `blocks` blocks of kLanes values, `stride` elements apart; what lies `ahead` elements further on
// is prefetched, if anything.
struct Blocks {
  int64_t count;
  int64_t stride;
  int64_t ahead;
};

template <typename Source, typename Pivot>
TORCHBN_ALWAYS_INLINE void add_in_double(const Source& source, const Blocks& blocks,
                                         const Pivot& pivot, Accumulator& sums) {
  for (int64_t i = 0; i < blocks.count; ++i) {
    const Source block = source + i * blocks.stride;
    if (blocks.ahead != 0) (block + blocks.ahead).prefetch();
    block.template add<false>(sums, pivot, nullptr);
  }
}

// Sums of half types. Their values come as floats, and float arithmetic does twice as many per
// instruction: with half the bytes to read, the arithmetic would be what takes the time. It is
// exact enough for a few blocks, about centres near the values of each lane; the sums go on in
// double. Returns false, and adds nothing, where float's range does not suffice.
template <typename Source, typename Pivot>
TORCHBN_ALWAYS_INLINE bool add_in_float(const Source& source, const Blocks& blocks,
                                        const Pivot& pivot, Accumulator& sums) {
  FloatAccumulator part = {};
  source.set_centers(part, pivot, blocks.count, blocks.stride);
  for (int64_t b = 0; b < blocks.count; ++b) {
    const Source block = source + b * blocks.stride;
    if (blocks.ahead != 0) (block + blocks.ahead).prefetch();
    block.add(part);
  }

  Register<int32_t> outside = {};
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    outside |= Source::out_of_range(part.first[i], part.second[i]);
  });
  if (any(outside)) return false;

  const double n = static_cast<double>(blocks.count);
  unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
    constexpr int kRegister = i / 2;
    constexpr int kHalf = i % 2;
    const Register<double> d = half_to_double<kHalf>(part.center[kRegister]) - pivot[i];
    Register<double> moved_second;
    sums.first[i] +=
        Source::moved(half_to_double<kHalf>(part.first[kRegister]),
                      half_to_double<kHalf>(part.second[kRegister]), d, n, moved_second);
    sums.second[i] += moved_second;
  });
  return true;
}

// Fewer blocks are not worth moving float sums into double ones. With more, rounding 2^-24 of a
// lane's sum at each step could come near the 1e-6 that the variance may be off; so it is 1e-7.
constexpr int64_t kLeastFloatBlocks = 8;
constexpr int64_t kMostFloatBlocks = 32;

constexpr int64_t kPrefetchedBlocks = 64;

template <typename T, typename Source, typename Pivot>
TORCHBN_ALWAYS_INLINE void add_blocks(const Source& source, const Blocks& blocks,
                                      const Pivot& pivot, Accumulator& sums) {
  if constexpr (sizeof(T) == 2) {
    if (blocks.count >= kLeastFloatBlocks && add_in_float(source, blocks, pivot, sums)) return;
  }
  add_in_double(source, blocks, pivot, sums);
}

// One run; while its last blocks are summed, what lies `next_run` elements on is prefetched: the
// hardware would notice too late, and not cross the page.
template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_run(const Source& run, int64_t length, int64_t next_run,
                                   const SharedPivot& pivot, Accumulator& sums) {
  const int64_t blocks = length / kLanes;
  const int64_t tail = length % kLanes;
  const int64_t unhurried = blocks > kPrefetchedBlocks ? blocks - kPrefetchedBlocks : 0;
  for (int64_t block = 0; block < blocks; block += kMostFloatBlocks) {
    const int64_t count = blocks - block < kMostFloatBlocks ? blocks - block : kMostFloatBlocks;
    const int64_t ahead = block + count > unhurried ? next_run - unhurried * kLanes : 0;
    add_blocks<T>(run + block * kLanes, {count, kLanes, ahead}, pivot, sums);
  }
  if (tail == 0) return;
  if (blocks > 0) {
    (run + (length - kLanes)).template add<true>(sums, pivot, kMask + tail);
  } else {
    T buffer[2][kLanes] = {};
    run.copy(tail, buffer).template add<true>(sums, pivot, kMask + 2 * kLanes - tail);
  }
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_strip(const Source& source, const Strip& strip, const double* pivots,
                                     Lanes* lanes) {
  Accumulator sums;
  if (strip.runs == 1) {
    const SharedPivot pivot(pivots[0]);
    sums.load(lanes[0].first, lanes[0].second);
    for (int64_t row = 0; row < strip.rows; ++row)
      add_run<T>(source + row * strip.stride, strip.length, strip.stride, pivot, sums);
    sums.store(lanes[0].first, lanes[0].second);
    return;
  }
  for (int64_t row = 0; row < strip.rows; ++row) {
    for (int64_t i = 0; i < strip.runs; ++i) {
      sums.load(lanes[i].first, lanes[i].second);
      add_run<T>(source + (row * strip.stride + i * strip.spacing), strip.length, strip.stride,
                 SharedPivot(pivots[i]), sums);
      sums.store(lanes[i].first, lanes[i].second);
    }
  }
}

// Rows whose columns are summed together: enough to make moving the sums cheap, few enough that
// they, and the next ones, which are prefetched, stay in the second-level cache. They decide what
// is summed in float, so they follow from the distance of rows, not from the panel's width.
TORCHBN_ALWAYS_INLINE int64_t rows_together(int64_t stride) {
  int64_t rows = kMostFloatBlocks;
  while (rows > 16 && rows * stride > 32768) rows /= 2;
  return rows;
}

template <typename T, typename Source>
TORCHBN_ALWAYS_INLINE void add_panel(const Source& source, const Strip& strip, const double* pivots,
                                     double* first, double* second) {
  const int64_t whole = strip.length / kLanes * kLanes;
  const int64_t tail = strip.length - whole;
  const int64_t step = rows_together(strip.stride);
  for (int64_t row = 0; row < strip.rows; row += step) {
    const int64_t rows = strip.rows - row < step ? strip.rows - row : step;
    const Source block = source + row * strip.stride;
    Accumulator sums;
    for (int64_t i = 0; i < whole; i += kLanes) {
      sums.load(first + i, second + i);
      add_blocks<T>(block + i, {rows, strip.stride, step * strip.stride}, LanePivots(pivots + i),
                    sums);
      sums.store(first + i, second + i);
    }
    if (tail == 0) continue;
    if (whole > 0) {
      const int64_t i = strip.length - kLanes;
      sums.load(first + i, second + i);
      for (int64_t r = 0; r < rows; ++r)
        (block + (r * strip.stride + i))
            .template add<true>(sums, LanePivots(pivots + i), kMask + tail);
      sums.store(first + i, second + i);
    } else {
      sums.load(first, second);
      for (int64_t r = 0; r < rows; ++r) {
        T buffer[2][kLanes] = {};
        (block + r * strip.stride)
            .copy(tail, buffer)
            .template add<true>(sums, LanePivots(pivots), kMask + 2 * kLanes - tail);
      }
      sums.store(first, second);
    }
  }
}

template <typename T>
void add_moments(const T* x, const Strip& strip, const double* pivots, Lanes* sums) {
  add_strip<T>(Moments<T>{x}, strip, pivots, sums);
}

template <typename T>
void add_gradient(const T* dy, const T* x, const Strip& strip, const double* means, Lanes* sums) {
  add_strip<T>(Gradients<T>{dy, x}, strip, means, sums);
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
