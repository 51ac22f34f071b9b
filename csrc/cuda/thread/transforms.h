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
  bool aligned;
  int64_t first_channel = 0;

  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(input + offset, aligned)};
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
  bool aligned;
  int64_t first_channel = 0;

  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(grad_output + offset, aligned),
            load_vector<T, kWidth>(input + offset, aligned)};
  }
  TORCHBN_HOST_DEVICE static Compute<T> apply(const Coefficients& gradient, const Item& item,
                                              int lane) {
    return gradient(to_compute(item.dy.get(lane)), to_compute(item.x.get(lane)));
  }
  TORCHBN_HOST_DEVICE T apply_one(const Coefficients& gradient, int64_t offset) const {
    return from_compute<T>(gradient(to_compute(grad_output[offset]), to_compute(input[offset])));
  }
};

// Loads a round of vectors, all in flight at once, then stores what becomes of them. `coefficients`
// are those of the lanes; kPerLane is false where one channel owns the whole vector.
template <bool kPerLane, typename Transform, typename Tiling, typename Walk>
TORCHBN_HOST_DEVICE void transform_vectors(const Transform& transform, const Tiling& tiling,
                                           Walk& walk,
                                           const typename Transform::Coefficients* coefficients) {
  constexpr int kWidth = Transform::kVectorWidth;
  constexpr int kVectors = Transform::kVectors;
  for (; walk.left > 0; walk.left -= kVectors) {
    typename Transform::Item items[kVectors];
    int64_t offsets[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      if (v >= walk.left) continue;
      offsets[v] = walk.next;
      items[v] = transform.load(walk.from());
      walk.step(tiling);
    }
    for (int v = 0; v < kVectors; ++v) {
      if (v >= walk.left) continue;
      Compute<typename Transform::Value> result[kWidth];
      for (int w = 0; w < kWidth; ++w)
        result[w] = Transform::apply(coefficients[kPerLane ? w : 0], items[v], w);
      store_vector(transform.output + offsets[v],
                   vector_from_compute<typename Transform::Value>(result), transform.aligned);
    }
  }
}

template <typename Transform, typename Walk>
TORCHBN_HOST_DEVICE void apply_transform(const Transform& transform,
                                         const ChannelsFirstTiling& tiling, Walk walk) {
  const auto coefficients = transform.coefficients[walk.channel - transform.first_channel];
  transform_vectors<false>(transform, tiling, walk, &coefficients);
}

template <typename Transform, typename Walk>
TORCHBN_HOST_DEVICE void apply_transform(const Transform& transform,
                                         const ChannelsLastTiling& tiling, Walk walk) {
  constexpr int kWidth = Transform::kVectorWidth;
  // Columns past the row's end belong to no channel of the tile.
  if (walk.empty()) return;
  typename Transform::Coefficients coefficients[kWidth];
  LaneChannel lane = walk.first_lane;
  for (int w = 0; w < kWidth; ++w) {
    coefficients[w] = transform.coefficients[lane.channel - transform.first_channel];
    lane.step(tiling);
  }
  transform_vectors<true>(transform, tiling, walk, coefficients);
  for (int w = 0; w < kWidth; ++w)
    if (w < walk.short_vector)
      transform.output[walk.next + w] = transform.apply_one(coefficients[w], walk.from() + w);
}

}  // namespace torchbn::cuda
