#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/gradient.h"
#include "cuda/thread/vector.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// What one thread does to the values it visits. A transform is a type: what it loads, and what a
// value becomes under the coefficients of its channel. What it loads from are the tensors, or
// copies of a part of them that the walk is over; what it stores goes to its place in the output.

// y = (x - mean) * scale + shift
template <typename T, int kWidth>
struct Normalize {
  using Value = T;
  using Coefficients = Affine<Compute<T>>;
  static constexpr int kVectorWidth = kWidth;
  static constexpr int kVectors = kWidth > 1 || sizeof(T) == 8 ? 4 : 8;  // in flight per thread

  struct Item {
    Vector<T, kWidth> x;
  };

  const T* input;
  T* output;
  const Coefficients* coefficients;  // [C], from first_channel on
  bool past_caches;
  int64_t first_channel = 0;

  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(input + offset)};
  }
  TORCHBN_HOST_DEVICE static Compute<T> apply(const Coefficients& affine, const Item& item,
                                              int lane) {
    return affine(to_compute(item.x.get(lane)));
  }
  TORCHBN_HOST_DEVICE T apply_one(const Coefficients& affine, int64_t offset) const {
    return from_compute<T>(affine(to_compute(input[offset])));
  }
};

// dx = grad_scale * dy + input_scale * (x - mean) + shift
template <typename T, int kWidth>
struct InputGradient {
  using Value = T;
  using Coefficients = GradientCoefficients<Compute<T>>;
  static constexpr int kVectorWidth = kWidth;
  static constexpr int kVectors = kWidth > 1 || sizeof(T) == 8 ? 2 : 4;

  struct Item {
    Vector<T, kWidth> dy;
    Vector<T, kWidth> x;
  };

  const T* grad_output;
  const T* input;
  T* output;                         // grad_input
  const Coefficients* coefficients;  // [C], from first_channel on
  bool past_caches;
  int64_t first_channel = 0;

  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(grad_output + offset), load_vector<T, kWidth>(input + offset)};
  }
  TORCHBN_HOST_DEVICE static Compute<T> apply(const Coefficients& gradient, const Item& item,
                                              int lane) {
    return gradient(to_compute(item.dy.get(lane)), to_compute(item.x.get(lane)));
  }
  TORCHBN_HOST_DEVICE T apply_one(const Coefficients& gradient, int64_t offset) const {
    return from_compute<T>(gradient(to_compute(grad_output[offset]), to_compute(input[offset])));
  }
};

// Of a thread's vectors: one for all lanes, where one channel owns a whole vector, or one for each.
template <typename Transform, int kLanes>
struct LaneCoefficients {
  typename Transform::Coefficients lane[kLanes];
};

template <typename Transform>
TORCHBN_HOST_DEVICE LaneCoefficients<Transform, 1> coefficients_of(const Transform& transform,
                                                                   const ChannelsFirstTiling&,
                                                                   const ChannelsFirstWalk& walk) {
  return {transform.coefficients[walk.channel - transform.first_channel]};
}

template <typename Transform>
TORCHBN_HOST_DEVICE auto coefficients_of(const Transform& transform,
                                         const ChannelsLastTiling& tiling,
                                         const ChannelsLastWalk& walk) {
  LaneCoefficients<Transform, Transform::kVectorWidth> coefficients;
  LaneChannel of_lane = walk.first_lane;
  for (auto& lane : coefficients.lane) {
    lane = transform.coefficients[of_lane.channel - transform.first_channel];
    of_lane.step(tiling);
  }
  return coefficients;
}

// Loads a round of vectors, all in flight at once, then stores what becomes of them. Where it is
// not known to be full it asks before every vector whether there is one.
template <bool kFull, int kVectors, int kLanes, typename Transform, typename Tiling, typename Walk>
TORCHBN_HOST_DEVICE void transform_round(const Transform& transform, const Tiling& tiling,
                                         Walk& walk,
                                         const LaneCoefficients<Transform, kLanes>& coefficients) {
  constexpr int kWidth = Transform::kVectorWidth;
  const int count = kFull ? kVectors : walk.left;
  typename Transform::Item items[kVectors];
  int64_t offsets[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    if (!kFull && v >= count) break;
    offsets[v] = walk.next;
    items[v] = transform.load(walk.from());
    walk.step(tiling);
  }
  for (int v = 0; v < kVectors; ++v) {
    if (!kFull && v >= count) break;
    Compute<typename Transform::Value> result[kWidth];
    for (int w = 0; w < kWidth; ++w)
      result[w] = Transform::apply(coefficients.lane[kLanes == 1 ? 0 : w], items[v], w);
    store_vector(transform.output + offsets[v],
                 vector_from_compute<typename Transform::Value>(result), transform.past_caches);
  }
  walk.left -= count;
}

// In rounds of kVectors.
template <int kVectors, typename Transform, typename Tiling, typename Walk, int kLanes>
TORCHBN_HOST_DEVICE void transform_vectors(
    const Transform& transform, const Tiling& tiling, Walk walk,
    const LaneCoefficients<Transform, kLanes>& coefficients) {
  while (walk.left >= kVectors)
    transform_round<true, kVectors>(transform, tiling, walk, coefficients);
  if (walk.left > 0) transform_round<false, kVectors>(transform, tiling, walk, coefficients);
}

template <typename Transform, typename Coefficients>
TORCHBN_HOST_DEVICE void transform_short(const Transform&, const ChannelsFirstTiling&,
                                         const ChannelsFirstWalk&, const Coefficients&) {}
template <typename Transform, typename Coefficients>
TORCHBN_HOST_DEVICE void transform_short(const Transform& transform,
                                         const ChannelsLastTiling& tiling,
                                         const ChannelsLastWalk& walk,
                                         const Coefficients& coefficients) {
  if (walk.short_vector == 0) return;
  const int64_t begin = walk.short_begin(tiling);
  for (int w = 0; w < Transform::kVectorWidth; ++w)
    if (w < walk.short_vector)
      transform.output[begin + w] = transform.apply_one(coefficients.lane[w], begin + w);
}

// All that a thread has of a unit.
template <typename Transform, typename Tiling, typename Walk>
TORCHBN_HOST_DEVICE void apply_transform(const Transform& transform, const Tiling& tiling,
                                         const Walk& walk) {
  // Columns past the row's end belong to no channel of the tile.
  if (walk.empty()) return;
  const auto coefficients = coefficients_of(transform, tiling, walk);
  transform_short(transform, tiling, walk, coefficients);
  transform_vectors<Transform::kVectors>(transform, tiling, walk, coefficients);
}

}  // namespace torchbn::cuda
