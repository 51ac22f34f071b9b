#pragma once

#include "cpu/vec/summands.h"

// Sums of several blocks: in double, or in float and then moved to double. Internal linkage: see
// simd.h.
namespace torchbn::cpu::vec {
namespace {

// Values of one channel, or of kLanes columns: `rows` rows, `stride` elements apart, of `blocks`
// whole blocks each and, where `tail` is not zero, as many elements more. These are loaded together
// with the elements before them.
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

// What lies `ahead` elements further on is prefetched, if that is not 0.
template <typename Sums, typename Source, typename... Arguments>
TORCHBN_ALWAYS_INLINE void add_row(const Source& row, const Bundle& bundle, int64_t ahead,
                                   Sums& sums, const Arguments&... arguments) {
  const auto mask = kMask<typename Sums::MaskBits> + bundle.tail;
  const auto add = [&](int64_t block, Sums & part) __attribute__((always_inline)) {
    (row + block * kLanes).template add<false>(part, arguments..., mask);
  };
  const auto prefetch = [&](int64_t block) __attribute__((always_inline)) {
    if (ahead == 0) return;
    constexpr int kLines = kChained * kLanes / kLine<typename Source::Element>;
    unroll<kLines>([&](auto i) __attribute__((always_inline)) {
      (row + (block * kLanes + ahead + i * kLine<typename Source::Element>)).prefetch();
    });
  };
  int64_t block = 0;
  for (; block + kChained <= bundle.blocks; block += kChained) {
    prefetch(block);
    Sums part = sums.fresh();
    unroll<kChained>([&](auto i) __attribute__((always_inline)) { add(block + i, part); });
    sums += part;
  }
  if (block == bundle.blocks && bundle.tail == 0) return;
  prefetch(block);
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
    add_row(source + row * bundle.stride, bundle, 0, sums, arguments...);
}

// About so many of a lane's values, where there are as many.
constexpr int64_t kSampled = 16;

TORCHBN_ALWAYS_INLINE Sample sample_of(const Bundle& bundle) {
  const auto power_of_two = [](int64_t most) __attribute__((always_inline)) {
    int64_t power = 1;
    while (2 * power <= most) power *= 2;
    return power;
  };
  const int64_t rows = power_of_two(lesser(bundle.rows, kSampled));
  const int64_t blocks = power_of_two(lesser(bundle.blocks, kSampled / rows));
  // Odd, where that leaves few rows out: every other row may be like no other.
  const int64_t step = bundle.rows / rows;
  const int64_t odd = step > 2 ? (step - 1) | 1 : step;
  return {rows, odd * bundle.stride, blocks, 2 * (bundle.blocks / blocks) * kLanes};
}

// The float sums of a bundle, as they are loaded, as double ones about the pivots. A lane where
// float does not suffice is summed again: each lane for itself, so that its bits do not depend on
// its neighbours.
template <typename Source, typename Pivot>
TORCHBN_ALWAYS_INLINE Accumulator to_double(const FloatAccumulator& loaded, const Source& source,
                                            const Bundle& bundle, const Pivot& pivot) {
  using T = typename Source::Element;
  const FloatAccumulator part{in_order<T>(loaded.center), in_order<T>(loaded.first),
                              in_order<T>(loaded.second)};
  Accumulator sums;
  const Register<double> whole = broadcast(static_cast<double>(bundle.rows * bundle.blocks));
  const Register<double> rows = broadcast(static_cast<double>(bundle.rows));
  unroll<kDoubleRegisters>([&](auto i) __attribute__((always_inline)) {
    constexpr int kRegister = i / 2;
    constexpr int kHalf = i % 2;
    const Register<double> d = half_to_double<kHalf>(part.center[kRegister]) - pivot[i];
    const Register<double> n = whole + keep(rows, kMask<int64_t> + bundle.tail + i * kDoubles);
    sums.first[i] =
        Source::moved(half_to_double<kHalf>(part.first[kRegister]),
                      half_to_double<kHalf>(part.second[kRegister]), d, n, sums.second[i]);
  });

  Register<int32_t> inexact[kFloatRegisters];
  Register<int32_t> inexact_any = {};
  const Register<float> count = broadcast(static_cast<float>(bundle.count()));
  unroll<kFloatRegisters>([&](auto i) __attribute__((always_inline)) {
    inexact[i] = Source::inexact(part.first[i], part.second[i], count);
    inexact_any |= inexact[i];
  });
  if (__builtin_expect(any(inexact_any), 0)) {
    Accumulator again = {};
    add_rows(source, bundle, again, pivot);
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!inexact[lane / kFloats][lane % kFloats]) continue;
      sums.first[lane / kDoubles][lane % kDoubles] = again.first[lane / kDoubles][lane % kDoubles];
      sums.second[lane / kDoubles][lane % kDoubles] =
          again.second[lane / kDoubles][lane % kDoubles];
    }
  }
  return sums;
}

}  // namespace
}  // namespace torchbn::cpu::vec
