#pragma once

#include <cmath>
#include <type_traits>

#include "core/finish_channel.h"
#include "cpu/vec/primitives.h"
#include "cpu/vec/simd.h"

// core/finish_channel.h for many channels. Internal linkage: see simd.h.
//
// A problem's vectors may be of any dtype and stride. Some channels at a time are copied into
// arrays of doubles, about which the compiler knows enough to vectorise core's formulas: divisions
// and square roots are most of the time.
namespace torchbn::cpu::vec {
namespace {

constexpr int64_t kFinishedTogether = 64;

// Some channels of a vector.
class Doubles {
 public:
  Doubles() = default;
  TORCHBN_ALWAYS_INLINE Doubles(const ChannelVector& vector, const ChannelRange& channels,
                                double absent) {
    if (!vector.present()) {
      for (int64_t i = 0; i < channels.size; ++i) values_[i] = absent;
      return;
    }
    with_type(
        vector.dtype, [&]<typename E>(E) __attribute__((always_inline)) {
          const E* from = static_cast<const E*>(vector.data) + channels.begin * vector.stride;
          for (int64_t i = 0; i < channels.size; ++i) values_[i] = widen(from[i * vector.stride]);
        });
  }

  TORCHBN_ALWAYS_INLINE void store(const MutableChannelVector& vector,
                                   const ChannelRange& channels) const {
    if (!vector.present()) return;
    with_type(
        vector.dtype, [&]<typename E>(E) __attribute__((always_inline)) {
          E* to = static_cast<E*>(vector.data) + channels.begin * vector.stride;
          for (int64_t i = 0; i < channels.size; ++i)
            to[i * vector.stride] = round_to<E>(values_[i]);
        });
  }

  TORCHBN_ALWAYS_INLINE ChannelVector read() const { return {values_, 1, DType::kFloat64}; }
  TORCHBN_ALWAYS_INLINE MutableChannelVector write() { return {values_, 1, DType::kFloat64}; }

 private:
  double values_[kFinishedTogether];
};

// f(channels, begin): so many channels at a time, `begin` of the range before them.
template <typename F>
TORCHBN_ALWAYS_INLINE void for_blocks(const ChannelRange& range, const F& f) {
  for (int64_t i = 0; i < range.size; i += kFinishedTogether) {
    f(ChannelRange{range.begin + i, lesser(range.size - i, kFinishedTogether)}, i);
  }
}

// A map to values of T. Rounding to bfloat16 by integer arithmetic might make a number of a NaN
// with a payload, a weight perhaps: coefficients are NaN without one.
template <typename T, typename Map>
TORCHBN_ALWAYS_INLINE Map for_values_of(const Map& map) {
  if constexpr (std::is_same_v<T, BFloat16>)
    return map.each([](float value)
                        __attribute__((always_inline)) { return value == value ? value : NAN; });
  else
    return map;
}

// Of maps that are arrays of each coefficient, those from `begin` on: map(i) for each of
// `channels`.
template <typename T, typename Maps, typename F>
TORCHBN_ALWAYS_INLINE void set_maps(const Maps& maps, int64_t begin, const ChannelRange& channels,
                                    const F& map) {
#pragma GCC ivdep
  for (int64_t i = 0; i < channels.size; ++i)
    maps.each(
        for_values_of<T>(map(i)), [&](auto* values, auto value) __attribute__((always_inline)) {
          return values[begin + i] = value;
        });
}

template <typename T>
void finish_training(const TrainProblem& problem, const ChannelRange& range, const double* first,
                     const double* second, const double* pivots, const Affine<Compute<T>*>& maps) {
  const RunningStatistics& running = problem.running;
  const double factor = running.present() ? running.factor() : 0;
  for_blocks(range, [&](const ChannelRange& channels, int64_t begin) {
    const Doubles weight(problem.weight, channels, 1), bias(problem.bias, channels, 0);
    Doubles mean(running.mean.read(), channels, 0), var(running.var.read(), channels, 0);
    TrainProblem block = problem;
    block.weight = weight.read();
    block.bias = bias.read();
    // Updated in any case, and stored where there are some: a branch would not be vectorised.
    block.running = {mean.write(), var.write(), nullptr, factor, false};
    block.save_mean += channels.begin;
    block.save_invstd += channels.begin;
    set_maps<T>(
        maps, begin, channels, [&](int64_t i) __attribute__((always_inline)) {
          const ShiftedSums sums{first[begin + i], second[begin + i]};
          return torchbn::finish_training<Compute<T>>(block, i, sums, pivots[begin + i]);
        });
    mean.store(running.mean, channels);
    var.store(running.var, channels);
  });
}

template <typename T>
void finish_inference(const InferenceProblem& problem, const ChannelRange& range,
                      const Affine<Compute<T>*>& maps) {
  for_blocks(range, [&](const ChannelRange& channels, int64_t begin) {
    const Doubles weight(problem.weight, channels, 1), bias(problem.bias, channels, 0);
    const Doubles mean(problem.running_mean, channels, 0), var(problem.running_var, channels, 0);
    InferenceProblem block = problem;
    block.weight = weight.read();
    block.bias = bias.read();
    block.running_mean = mean.read();
    block.running_var = var.read();
    block.save_mean += channels.begin;
    block.save_invstd += channels.begin;
    set_maps<T>(
        maps, begin, channels, [&](int64_t i) __attribute__((always_inline)) {
          return torchbn::finish_inference<Compute<T>>(block, i);
        });
  });
}

inline void store_parameters(const BackwardProblem& problem, const ChannelRange& range,
                             const double* first, const double* second) {
  for_blocks(range, [&](const ChannelRange& channels, int64_t begin) {
    Doubles grad_weight, grad_bias;
    BackwardProblem block = problem;
    block.invstd += channels.begin;
    block.grad_weight = grad_weight.write();
    block.grad_bias = grad_bias.write();
    for (int64_t i = 0; i < channels.size; ++i)
      torchbn::store_parameters(block, i, GradientSums{first[begin + i], second[begin + i]});
    grad_weight.store(problem.grad_weight, channels);
    grad_bias.store(problem.grad_bias, channels);
  });
}

template <typename T>
void training_gradient(const BackwardProblem& problem, const ChannelRange& range,
                       const double* first, const double* second,
                       const GradientCoefficients<Compute<T>*>& maps) {
  for_blocks(range, [&](const ChannelRange& channels, int64_t begin) {
    const Doubles weight(problem.weight, channels, 1);
    BackwardProblem block = problem;
    block.weight = weight.read();
    block.mean += channels.begin;
    block.invstd += channels.begin;
    set_maps<T>(
        maps, begin, channels, [&](int64_t i) __attribute__((always_inline)) {
          const GradientSums sums{first[begin + i], second[begin + i]};
          return torchbn::training_gradient<Compute<T>>(block, i, sums);
        });
  });
}

template <typename T>
void evaluation_gradient(const BackwardProblem& problem, const ChannelRange& range,
                         const Affine<Compute<T>*>& maps) {
  for_blocks(range, [&](const ChannelRange& channels, int64_t begin) {
    const Doubles weight(problem.weight, channels, 1);
    BackwardProblem block = problem;
    block.weight = weight.read();
    block.invstd += channels.begin;
    set_maps<T>(
        maps, begin, channels, [&](int64_t i) __attribute__((always_inline)) {
          return torchbn::evaluation_gradient<Compute<T>>(block, i);
        });
  });
}

}  // namespace
}  // namespace torchbn::cpu::vec
