// What the CUDA kernels compute, on the host: the per-thread functions run in loops over blocks and
// threads, and the merges between threads are replaced by plain sums over what they merge.
// Shuffles, barriers and the memory behind them are for simulation_test.cpp, with fewer shapes.

#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "core/affine.h"
#include "core/gradient.h"
#include "core/statistics.h"
#include "core/thread_sums.h"
#include "cuda/launch_policy.h"
#include "cuda/thread/reductions.h"
#include "cuda/thread/transforms.h"

namespace torchbn::cuda {
namespace {

template <typename Reduction>
using PartialSums = std::vector<typename Reduction::Sums>;

template <typename Reduction>
PartialSums<Reduction> reduce(const Reduction& reduction, const ChannelsFirstTiling& tiling) {
  PartialSums<Reduction> partials(static_cast<size_t>(tiling.units()));
  for (int64_t unit = 0; unit < tiling.units(); ++unit)
    for (int thread = 0; thread < tiling.block; ++thread)
      partials[static_cast<size_t>(unit)].merge(
          accumulate(reduction, tiling, ChannelsFirstWalk(tiling, unit_at(tiling, unit), thread)));
  return partials;
}

template <typename Reduction>
PartialSums<Reduction> reduce(const Reduction& reduction, const ChannelsLastTiling& tiling) {
  PartialSums<Reduction> partials(static_cast<size_t>(tiling.splits * tiling.partial_row));
  for (int64_t unit = 0; unit < tiling.units(); ++unit) {
    const int64_t begin = unit % tiling.tiles * tiling.merged_width;
    for (int thread = 0; thread < tiling.rows * tiling.columns; ++thread) {
      const auto sums =
          accumulate(reduction, tiling, ChannelsLastWalk(tiling, unit_at(tiling, unit), thread));
      for (int w = 0; w < tiling.width; ++w) {
        const int64_t at = begin + (thread * tiling.width + w) % tiling.merged_width;
        if (at < tiling.partial_row)
          partials[static_cast<size_t>(unit / tiling.tiles * tiling.partial_row + at)].merge(
              sums.lane[w]);
      }
    }
  }
  return partials;
}

template <typename Transform>
void transform(const Transform& op, const ChannelsFirstTiling& tiling) {
  for (int64_t unit = 0; unit < tiling.units(); ++unit)
    for (int thread = 0; thread < tiling.block; ++thread)
      apply_transform(op, tiling, ChannelsFirstWalk(tiling, unit_at(tiling, unit), thread));
}

template <typename Transform>
void transform(const Transform& op, const ChannelsLastTiling& tiling) {
  for (int64_t unit = 0; unit < tiling.units(); ++unit)
    for (int thread = 0; thread < tiling.block; ++thread)
      apply_transform(op, tiling, ChannelsLastWalk(tiling, unit_at(tiling, unit), thread));
}

template <typename Sums>
Sums merge_parts(const std::vector<Sums>& partials, int64_t parts, int64_t channels,
                 int64_t channel) {
  Sums sums;
  for (int64_t part = 0; part < parts; ++part)
    sums.merge(partials[static_cast<size_t>(part * channels + channel)]);
  return sums;
}

template <typename T>
std::vector<T> random_values(int64_t count, float mean, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(mean, 1);
  std::vector<T> values(static_cast<size_t>(count));
  for (T& value : values) {
    if constexpr (std::is_same_v<T, double>)
      value = normal(engine);
    else
      value = narrow<T>(normal(engine));
  }
  return values;
}

// Where the values of a channel lie.
struct Channel {
  Extent extent;
  int64_t channel;

  int64_t offset(int64_t i) const {
    if (extent.layout == Layout::kChannelsLast) return i * extent.channels + channel;
    return (i / extent.spatial * extent.channels + channel) * extent.spatial + i % extent.spatial;
  }
};

template <typename T, DType kType, int kFull>
struct Type {
  using Value = T;
  static constexpr DType kDType = kType;
  static constexpr int kWidth = kFull;
  // Half a unit in the last place of the output, and some of the arithmetic's.
  static double tolerance() {
    return kType == DType::kBFloat16 ? 0x1p-8 : kType == DType::kFloat16 ? 0x1p-11 : 1e-6;
  }
};

// Forward and backward of one extent against formulas in double.
template <typename Type, int kWidth, typename Tiling>
void check(const Extent& extent, const LaunchPolicy& policy, const Tiling& tiling, bool aligned) {
  using T = typename Type::Value;
  // Misaligned tensors start one value into their buffers.
  const size_t skip = aligned ? 0 : 1;
  const int64_t room = extent.numel() + 1;
  const std::vector<T> x_buffer = random_values<T>(room, 3, 1);
  const std::vector<T> dy_buffer = random_values<T>(room, 0.5f, 2);
  std::vector<T> y_buffer(static_cast<size_t>(room)), dx_buffer(static_cast<size_t>(room));
  const T* x = x_buffer.data() + skip;
  const T* dy = dy_buffer.data() + skip;
  T* y = y_buffer.data() + skip;
  T* dx = dx_buffer.data() + skip;

  const int64_t count = extent.count();
  const double eps = 1e-5;
  const auto moments = reduce(MomentReduction<T, kWidth>{x, x, aligned}, tiling);
  std::vector<double> means, invstds;
  std::vector<Affine<Compute<T>>> affine;
  for (int64_t c = 0; c < extent.channels; ++c) {
    const Channel channel{extent, c};
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < count; ++i) mean += to_compute(x[channel.offset(i)]) / double(count);
    for (int64_t i = 0; i < count; ++i)
      variance += std::pow(to_compute(x[channel.offset(i)]) - mean, 2) / double(count);
    const double pivot = to_compute(x[channel.offset(0)]);
    const Statistics got =
        finish(merge_parts(moments, policy.parts, extent.channels, c), pivot, count);
    ASSERT_NEAR(got.mean, mean, 1e-6) << "channel " << c;
    ASSERT_NEAR(got.variance, variance, 1e-6 * variance + 1e-12) << "channel " << c;
    means.push_back(got.mean);
    invstds.push_back(inverse_std(got.variance, eps));
    affine.push_back(fold_affine<Compute<T>>(got.mean, invstds.back(), 1.5, 0.25));
  }
  transform(Normalize<T, kWidth>{x, y, affine.data(), aligned}, tiling);

  const GradientReduction<T, kWidth> gradient{dy, x, means.data(), aligned};
  const auto sums = reduce(gradient, tiling);
  const auto bias_sums =
      reduce(GradientReduction<T, kWidth>{dy, dy, means.data(), aligned}, tiling);
  std::vector<GradientCoefficients<Compute<T>>> coefficients;
  for (int64_t c = 0; c < extent.channels; ++c) {
    const size_t at = static_cast<size_t>(c);
    const GradientSums merged = recenter(merge_parts(sums, policy.parts, extent.channels, c),
                                         means[at], static_cast<Compute<T>>(means[at]));
    double dy_sum = 0, centered = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t offset = Channel{extent, c}.offset(i);
      dy_sum += to_compute(dy[offset]);
      centered += to_compute(dy[offset]) * (to_compute(x[offset]) - means[at]);
    }
    ASSERT_NEAR(merged.dy, dy_sum, 1e-6 * double(count));
    ASSERT_NEAR(merged.dy_centered, centered, 3e-6 * double(count));
    ASSERT_EQ(merge_parts(bias_sums, policy.parts, extent.channels, c).dy, merged.dy);
    coefficients.push_back(fold_gradient<Compute<T>>(merged, means[at], invstds[at], 1.5, count));
  }
  transform(InputGradient<T, kWidth>{dy, x, dx, coefficients.data(), aligned}, tiling);

  const double tolerance = Type::tolerance();
  for (int64_t c = 0; c < extent.channels; ++c)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t offset = Channel{extent, c}.offset(i);
      const size_t at = static_cast<size_t>(c);
      const double centered = to_compute(x[offset]) - means[at];
      const double expected = centered * invstds[at] * 1.5 + 0.25;
      ASSERT_NEAR(to_compute(y[offset]), expected, tolerance * (1 + std::abs(expected)))
          << "value " << offset;
      const auto& k = coefficients[at];
      const double gradient_expected =
          k.grad_scale * double(to_compute(dy[offset])) + k.input_scale * centered + k.shift;
      ASSERT_NEAR(to_compute(dx[offset]), gradient_expected,
                  tolerance * (4 * std::abs(double(k.grad_scale)) + std::abs(gradient_expected)))
          << "value " << offset;
    }
}

template <typename Type>
void check(const Extent& extent, int64_t multiprocessors, bool aligned) {
  SCOPED_TRACE(testing::Message() << "N" << extent.batch << " C" << extent.channels << " S"
                                  << extent.spatial << " layout " << int(extent.layout) << " of "
                                  << multiprocessors << " multiprocessors, aligned " << aligned);
  const LaunchPolicy policy =
      split_policy(extent, Type::kDType, 0, true, DeviceLimits{multiprocessors});
  constexpr int kFull = Type::kWidth;
  if (extent.layout == Layout::kChannelsLast)
    return check<Type, width_across(sizeof(typename Type::Value))>(extent, policy,
                                                                   policy.channels_last, aligned);
  const ChannelsFirstTiling& tiling = policy.channels_first;
  if (tiling.width == kFull) return check<Type, kFull>(extent, policy, tiling, aligned);
  if (tiling.width == kFull / 2) return check<Type, kFull / 2>(extent, policy, tiling, aligned);
  check<Type, 1>(extent, policy, tiling, aligned);
}

template <typename Type>
class Emulation : public testing::Test {};

using Types =
    testing::Types<Type<float, DType::kFloat32, 4>, Type<double, DType::kFloat64, 2>,
                   Type<BFloat16, DType::kBFloat16, 8>, Type<Float16, DType::kFloat16, 8>>;
TYPED_TEST_SUITE(Emulation, Types);

TYPED_TEST(Emulation, ChannelsFirst) {
  for (const auto& [batch, channels, spatial] : {std::array<int64_t, 3>{2, 1, 1},
                                                 {1, 1, 4099},
                                                 {3, 5, 7},
                                                 {33, 3, 49},
                                                 {9, 3, 196},
                                                 {2, 3, 3136},
                                                 {4, 2, 8192},
                                                 {3, 40, 16}})
    for (const int64_t multiprocessors : {1, 132})
      for (const bool aligned : {true, false})
        check<TypeParam>(Extent{batch, channels, spatial, Layout::kChannelsFirst}, multiprocessors,
                         aligned);
}

TYPED_TEST(Emulation, ChannelsLast) {
  for (const auto& [batch, channels, spatial] : {std::array<int64_t, 3>{1, 1, 1023},
                                                 {2, 3, 1},
                                                 {5, 6, 1001},
                                                 {3, 7, 333},
                                                 {32, 64, 1},
                                                 {3, 65, 51},
                                                 {2, 512, 17},
                                                 {3, 1001, 11},
                                                 {11, 24, 101}})
    for (const int64_t multiprocessors : {1, 132})
      for (const bool aligned : {true, false})
        check<TypeParam>(Extent{batch, channels, spatial, Layout::kChannelsLast}, multiprocessors,
                         aligned);
}

}  // namespace
}  // namespace torchbn::cuda
