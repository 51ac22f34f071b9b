#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/channel_vector.h"
#include "core/gradient.h"
#include "core/packet.h"
#include "core/statistics.h"
#include "cuda/thread/vector.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// What one thread adds up. A reduction is a type: what it loads, how the values join a packet, and
// how a packet joins the sums. `Center` is what is subtracted from a channel's values. All loops
// over vectors and lanes have constant bounds: nvcc unrolls them, which keeps the arrays in
// registers.

// The moments of the input about each channel's first value.
template <typename T, int kWidth>
struct MomentReduction {
  using Sums = ShiftedSums;
  using Center = Compute<T>;
  static constexpr int kVectorWidth = kWidth;
  // Vectors in flight per thread, along a channel and across rows, where a packet is only as long
  // as this number. More of them cost registers: with 128 and less, two blocks fit a
  // multiprocessor.
  static constexpr int kVectorsAlong = kWidth > 1 ? 4 : 8;
  static constexpr int kVectorsAcross = kWidth > 4 ? 4 : 8;

  struct Item {
    Vector<T, kWidth> x;
  };
  template <int kCount>
  struct Packet {
    Compute<T> x[kCount];
  };

  const T* input;   // or the copy of a part of it that the walk is over
  const T* tensor;  // the input itself
  bool aligned;

  TORCHBN_HOST_DEVICE Center center(int64_t, int64_t first_value) const {
    return static_cast<Center>(pivot_from(to_compute(tensor[first_value])));
  }
  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(input + offset, aligned)};
  }
  template <int kCount>
  TORCHBN_HOST_DEVICE static void put(Packet<kCount>& packet, int at, const Item& item, int lane) {
    packet.x[at] = to_compute(item.x.lane[lane]);
  }
  TORCHBN_HOST_DEVICE Packet<1> load_one(int64_t offset) const {
    return {{to_compute(input[offset])}};
  }
  template <int kCount>
  TORCHBN_HOST_DEVICE static void add(Sums& sums, const Packet<kCount>& packet, Center center) {
    add_packet(sums, packet.x, center);
  }
};

// The sums of the gradients, about the high part of the mean. Where there is no input (none is kept
// where weight needs no gradient) any tensor of its size will do: only sum(dy) has a meaning then.
template <typename T, int kWidth>
struct GradientReduction {
  using Sums = GradientSums;
  using Center = Compute<T>;
  static constexpr int kVectorWidth = kWidth;
  static constexpr int kVectorsAlong = kWidth > 1 ? 2 : 4;
  static constexpr int kVectorsAcross = kWidth > 4 ? 2 : 4;

  struct Item {
    Vector<T, kWidth> dy;
    Vector<T, kWidth> x;
  };
  template <int kCount>
  struct Packet {
    Compute<T> dy[kCount];
    Compute<T> x[kCount];
  };

  const T* grad_output;
  const T* input;
  const double* mean;  // [C]
  bool aligned;

  TORCHBN_HOST_DEVICE Center center(int64_t channel, int64_t) const {
    return static_cast<Center>(mean[channel]);
  }
  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(grad_output + offset, aligned),
            load_vector<T, kWidth>(input + offset, aligned)};
  }
  template <int kCount>
  TORCHBN_HOST_DEVICE static void put(Packet<kCount>& packet, int at, const Item& item, int lane) {
    packet.dy[at] = to_compute(item.dy.lane[lane]);
    packet.x[at] = to_compute(item.x.lane[lane]);
  }
  TORCHBN_HOST_DEVICE Packet<1> load_one(int64_t offset) const {
    return {{to_compute(grad_output[offset])}, {to_compute(input[offset])}};
  }
  template <int kCount>
  TORCHBN_HOST_DEVICE static void add(Sums& sums, const Packet<kCount>& packet, Center center) {
    add_packet(sums, packet.dy, packet.x, center);
  }
};

// The same in evaluation, where the input's gradient depends on no sum: it is made of what is read
// for them.
template <typename T, int kWidth>
struct EvaluationReduction : GradientReduction<T, kWidth> {
  using Base = GradientReduction<T, kWidth>;
  struct Center {
    Compute<T> mean;
    Compute<T> scale;
  };

  const double* invstd;  // [C]
  ChannelVector weight;
  T* output;  // grad_input

  TORCHBN_HOST_DEVICE Center center(int64_t channel, int64_t first_value) const {
    return {
        Base::center(channel, first_value),
        fold_evaluation_gradient<Compute<T>>(invstd[channel], weight.load_or(channel, 1)).scale};
  }
  template <int kCount>
  TORCHBN_HOST_DEVICE static void add(GradientSums& sums,
                                      const typename Base::template Packet<kCount>& packet,
                                      const Center& center) {
    Base::add(sums, packet, center.mean);
  }
  // `centers` are those of the lanes; kPerLane is false where one channel owns the whole vector.
  template <bool kPerLane>
  TORCHBN_HOST_DEVICE void map(int64_t offset, const typename Base::Item& item,
                               const Center* centers) const {
    Vector<T, kWidth> result;
    for (int w = 0; w < kWidth; ++w)
      result.lane[w] = mapped(to_compute(item.dy.lane[w]), centers[kPerLane ? w : 0]);
    store_vector(output + offset, result, this->aligned);
  }
  TORCHBN_HOST_DEVICE void map_one(int64_t offset, const typename Base::template Packet<1>& packet,
                                   const Center& center) const {
    output[offset] = mapped(packet.dy[0], center);
  }

 private:
  static TORCHBN_HOST_DEVICE T mapped(Compute<T> dy, const Center& center) {
    return from_compute<T>(Affine<Compute<T>>{0, center.scale, 0}(dy));
  }
};

// Does it map what it sums?
template <typename Reduction>
inline constexpr bool kMaps = false;
template <typename T, int kWidth>
inline constexpr bool kMaps<EvaluationReduction<T, kWidth>> = true;

// A thread's share of a part of one channel. All vectors of a round are in flight before the first
// is used; a round that is not full is added vector by vector.
template <typename Reduction, typename Walk>
TORCHBN_HOST_DEVICE typename Reduction::Sums accumulate(const Reduction& reduction,
                                                        const ChannelsFirstTiling& tiling,
                                                        Walk walk) {
  constexpr int kWidth = Reduction::kVectorWidth;
  constexpr int kVectors = Reduction::kVectorsAlong;
  typename Reduction::Sums sums;
  const auto center = reduction.center(walk.channel, walk.first_value(tiling));
  for (; walk.left > 0; walk.left -= kVectors) {
    typename Reduction::Item items[kVectors];
    [[maybe_unused]] int64_t offsets[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      if (v >= walk.left) continue;
      offsets[v] = walk.next;
      items[v] = reduction.load(walk.from());
      walk.step(tiling);
    }
    if constexpr (kMaps<Reduction>)
      for (int v = 0; v < kVectors; ++v)
        if (v < walk.left) reduction.template map<false>(offsets[v], items[v], &center);
    if (walk.left >= kVectors) {
      typename Reduction::template Packet<kVectors * kWidth> packet;
      for (int v = 0; v < kVectors; ++v)
        for (int w = 0; w < kWidth; ++w) Reduction::put(packet, v * kWidth + w, items[v], w);
      Reduction::add(sums, packet, center);
      continue;
    }
    for (int v = 0; v < kVectors; ++v) {
      if (v >= walk.left) continue;
      typename Reduction::template Packet<kWidth> packet;
      for (int w = 0; w < kWidth; ++w) Reduction::put(packet, w, items[v], w);
      Reduction::add(sums, packet, center);
    }
  }
  return sums;
}

// One sum per lane of a thread's column.
template <typename Reduction>
struct LaneSums {
  typename Reduction::Sums lane[Reduction::kVectorWidth];
};

// A thread's share of a tile. A packet is what one lane finds in the rows of a round.
template <typename Reduction, typename Walk>
TORCHBN_HOST_DEVICE LaneSums<Reduction> accumulate(const Reduction& reduction,
                                                   const ChannelsLastTiling& tiling, Walk walk) {
  constexpr int kWidth = Reduction::kVectorWidth;
  constexpr int kVectors = Reduction::kVectorsAcross;
  LaneSums<Reduction> sums;
  typename Reduction::Center center[kWidth];
  LaneChannel lane = walk.first_lane;
  for (int w = 0; w < kWidth; ++w) {
    center[w] = reduction.center(lane.channel, lane.first_value(tiling));
    lane.step(tiling);
  }
  for (; walk.left > 0; walk.left -= kVectors) {
    typename Reduction::Item items[kVectors];
    [[maybe_unused]] const int64_t first = walk.next;
    for (int v = 0; v < kVectors; ++v) {
      if (v >= walk.left) continue;
      items[v] = reduction.load(walk.from());
      walk.step(tiling);
    }
    if constexpr (kMaps<Reduction>)
      for (int v = 0; v < kVectors; ++v)
        if (v < walk.left)
          reduction.template map<true>(first + v * Walk::distance(tiling), items[v], center);
    if (walk.left >= kVectors) {
      for (int w = 0; w < kWidth; ++w) {
        typename Reduction::template Packet<kVectors> packet;
        for (int v = 0; v < kVectors; ++v) Reduction::put(packet, v, items[v], w);
        Reduction::add(sums.lane[w], packet, center[w]);
      }
      continue;
    }
    for (int v = 0; v < kVectors; ++v) {
      if (v >= walk.left) continue;
      for (int w = 0; w < kWidth; ++w) {
        typename Reduction::template Packet<1> packet;
        Reduction::put(packet, 0, items[v], w);
        Reduction::add(sums.lane[w], packet, center[w]);
      }
    }
  }
  for (int w = 0; w < kWidth; ++w) {
    if (w >= walk.short_vector) continue;
    const auto packet = reduction.load_one(walk.from() + w);
    if constexpr (kMaps<Reduction>) reduction.map_one(walk.next + w, packet, center[w]);
    Reduction::add(sums.lane[w], packet, center[w]);
  }
  return sums;
}

}  // namespace torchbn::cuda
