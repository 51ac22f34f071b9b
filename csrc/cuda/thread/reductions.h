#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/channel_vector.h"
#include "core/gradient.h"
#include "core/statistics.h"
#include "cuda/thread/sums.h"
#include "cuda/thread/vector.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// What one thread adds up. A reduction is a type: what it loads, and how values join the sums of a
// lane, all its own channel's in channels-last, one for all lanes where a channel owns the whole
// vector. All loops over vectors and lanes have constant bounds: nvcc unrolls them, which keeps the
// arrays in registers.

// Of a chunk, in rounds of so many values for each sum.
template <typename T>
TORCHBN_HOST_DEVICE constexpr int rounds_of_chunk(int values) {
  const int most = sizeof(T) == 2 ? 2 * kMostFloats : kMostFloats;
  return values < most ? most / values : 1;
}

// The moments of the input about each channel's first value.
template <typename T, int kWidth>
struct MomentReduction {
  using Value = T;
  using Sums = ShiftedSums;
  using Lane = ThreadMoments<Compute<T>>;
  static constexpr int kVectorWidth = kWidth;
  // Vectors in flight per thread, along a channel and across rows. More of them cost registers.
  static constexpr int kVectorsAlong = kWidth > 1 ? 4 : 8;
  static constexpr int kVectorsAcross = 8;

  struct Item {
    Vector<T, kWidth> x;
  };

  const T* input;

  TORCHBN_HOST_DEVICE Lane lane(int64_t) const { return {}; }
  TORCHBN_HOST_DEVICE Sums sums_of(const Lane& lane, int64_t count, int64_t first_value) const {
    return lane.about(pivot_from(to_compute(input[first_value])), count);
  }

  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(input + offset)};
  }
  // Of a vector only so many values, the first ones.
  TORCHBN_HOST_DEVICE Item load_short(int64_t offset, int present) const {
    return {load_values<T, kWidth>(input + offset, present)};
  }

  // What a lane's values lie about: `kEach` of the first `count` vectors, those from `from` on.
  template <int kEach, int kCount>
  TORCHBN_HOST_DEVICE static void choose_center(Lane& lane, const Item (&items)[kCount], int count,
                                                int from) {
    lane.template choose_center<kCount * kEach>(
        count * kEach, [&](int i) { return to_compute(items[i / kEach].x.get(from + i % kEach)); });
  }
  TORCHBN_HOST_DEVICE static void add(Lane& lane, const Item& item) {
    Compute<T> x[kWidth];
    for (int w = 0; w < kWidth; ++w) x[w] = to_compute(item.x.get(w));
    lane.add(x);
  }
  // Of each of the first `count` vectors one value, in a chain of their own: a chunk of a lane that
  // has one value in a vector would else be that many additions in a row.
  template <int kCount>
  TORCHBN_HOST_DEVICE static void add_round(Lane& lane, const Item (&items)[kCount], int count,
                                            int w) {
    Compute<T> x[kCount];
    for (int v = 0; v < kCount; ++v) x[v] = v < count ? to_compute(items[v].x.get(w)) : lane.center;
    lane.add(x);
  }
  TORCHBN_HOST_DEVICE static void add_in_double(Lane& lane, const Item& item, int w) {
    lane.add_in_double(to_compute(item.x.get(w)));
  }
};

// The sums of the gradients, about the high part of the mean. Where there is no input (none is kept
// where weight needs no gradient) any tensor of its size will do: only sum(dy) has a meaning then.
template <typename T, int kWidth>
struct GradientReduction {
  using Value = T;
  using Sums = GradientSums;
  using Lane = ThreadGradients<Compute<T>>;
  static constexpr int kVectorWidth = kWidth;
  static constexpr int kVectorsAlong = kWidth > 1 ? 2 : 4;
  static constexpr int kVectorsAcross = 4;

  struct Item {
    Vector<T, kWidth> dy;
    Vector<T, kWidth> x;
  };

  const T* grad_output;
  const T* input;
  const double* mean;  // [C]

  TORCHBN_HOST_DEVICE Lane lane(int64_t channel) const {
    Lane lane;
    lane.center = static_cast<Compute<T>>(mean[channel]);
    return lane;
  }
  TORCHBN_HOST_DEVICE Sums sums_of(const Lane& lane, int64_t, int64_t) const { return lane.sums; }

  TORCHBN_HOST_DEVICE Item load(int64_t offset) const {
    return {load_vector<T, kWidth>(grad_output + offset), load_vector<T, kWidth>(input + offset)};
  }
  TORCHBN_HOST_DEVICE Item load_short(int64_t offset, int present) const {
    return {load_values<T, kWidth>(grad_output + offset, present),
            load_values<T, kWidth>(input + offset, present)};
  }

  template <int kEach, int kCount>
  TORCHBN_HOST_DEVICE static void choose_center(Lane&, const Item (&)[kCount], int, int) {}
  TORCHBN_HOST_DEVICE static void add(Lane& lane, const Item& item) {
    Compute<T> dy[kWidth];
    Compute<T> x[kWidth];
    for (int w = 0; w < kWidth; ++w) {
      dy[w] = to_compute(item.dy.get(w));
      x[w] = to_compute(item.x.get(w));
    }
    lane.add(dy, x);
  }
  TORCHBN_HOST_DEVICE static void add(Lane& lane, const Item& item, int w) {
    const Compute<T> dy[] = {to_compute(item.dy.get(w))};
    const Compute<T> x[] = {to_compute(item.x.get(w))};
    lane.add(dy, x);
  }
  TORCHBN_HOST_DEVICE static void add_in_double(Lane& lane, const Item& item, int w) {
    lane.add_in_double(to_compute(item.dy.get(w)), to_compute(item.x.get(w)));
  }
};

// The same in evaluation, where the input's gradient depends on no sum: it is made of what is read
// for them.
template <typename T, int kWidth>
struct EvaluationReduction : GradientReduction<T, kWidth> {
  using Base = GradientReduction<T, kWidth>;
  using Item = typename Base::Item;
  struct Lane : Base::Lane {
    Compute<T> scale;
  };

  const double* invstd;  // [C]
  ChannelVector weight;
  T* output;  // grad_input

  TORCHBN_HOST_DEVICE Lane lane(int64_t channel) const {
    return {
        Base::lane(channel),
        fold_evaluation_gradient<Compute<T>>(invstd[channel], weight.load_or(channel, 1)).scale};
  }
  // `lanes` are those of the vector; kPerLane is false where one channel owns all of it.
  template <bool kPerLane>
  TORCHBN_HOST_DEVICE void map(int64_t offset, const Item& item, const Lane* lanes) const {
    Compute<T> result[kWidth];
    for (int w = 0; w < kWidth; ++w) result[w] = mapped(item, w, lanes[kPerLane ? w : 0]);
    store_vector(output + offset, vector_from_compute<T>(result));
  }
  TORCHBN_HOST_DEVICE void map_one(int64_t offset, const Item& item, int w,
                                   const Lane& lane) const {
    output[offset + w] = from_compute<T>(mapped(item, w, lane));
  }

 private:
  static TORCHBN_HOST_DEVICE Compute<T> mapped(const Item& item, int w, const Lane& lane) {
    return Affine<Compute<T>>{0, lane.scale, 0}(to_compute(item.dy.get(w)));
  }
};

// Does it add a round at once, where that has one value of each vector for a lane? For gradients it
// would take more registers than there are.
template <typename Reduction>
inline constexpr bool kAddsRounds = false;
template <typename T, int kWidth>
inline constexpr bool kAddsRounds<MomentReduction<T, kWidth>> = true;

// Does it map what it sums?
template <typename Reduction>
inline constexpr bool kMaps = false;
template <typename T, int kWidth>
inline constexpr bool kMaps<EvaluationReduction<T, kWidth>> = true;

// Where a thread's vectors come from, and what becomes of them besides being added: here from the
// tensors, and nothing.
struct InPlace {
  // In flight, where so many would be good for tensors.
  static TORCHBN_HOST_DEVICE constexpr int vectors(int useful) { return useful; }
  template <typename Reduction>
  TORCHBN_HOST_DEVICE auto load(const Reduction& reduction, int64_t offset) const {
    return reduction.load(offset);
  }
  template <typename Item>
  TORCHBN_HOST_DEVICE void take(const Item&) const {}
};

// Adds a round of a thread's vectors, all of which are in flight before the first of them is used.
// Of the first one lanes choose what their values lie about. It, and the last one, ask before every
// vector whether there is one; those between them are full.
template <bool kFull, int kVectors, int kLanes, typename Reduction, typename Source,
          typename Tiling, typename Walk>
TORCHBN_HOST_DEVICE void add_round(const Reduction& reduction, Source& source, const Tiling& tiling,
                                   Walk& walk, typename Reduction::Lane (&lanes)[kLanes],
                                   bool first) {
  constexpr int kEach = Reduction::kVectorWidth / kLanes;  // of a vector's values, for each lane
  const int count = kFull || walk.left > kVectors ? kVectors : walk.left;
  typename Reduction::Item items[kVectors];
  [[maybe_unused]] Walk again = walk;
  for (int v = 0; v < kVectors; ++v) {
    if (!kFull && v >= count) break;
    items[v] = source.load(reduction, walk.next);
    walk.step(tiling);
  }
  if (!kFull && first) {
    for (int lane = 0; lane < kLanes; ++lane)
      Reduction::template choose_center<kEach>(lanes[lane], items, count, lane);
  }
  for (int v = 0; v < kVectors; ++v) {
    if (!kFull && v >= count) break;
    source.take(items[v]);
    if constexpr (kMaps<Reduction>) {
      reduction.template map<(kLanes > 1)>(again.next, items[v], lanes);
      again.step(tiling);
    }
    if constexpr (kEach > 1)
      Reduction::add(lanes[0], items[v]);
    else if constexpr (!kAddsRounds<Reduction>)
      for (int lane = 0; lane < kLanes; ++lane) Reduction::add(lanes[lane], items[v], lane);
  }
  if constexpr (kEach == 1 && kAddsRounds<Reduction>)
    for (int lane = 0; lane < kLanes; ++lane) Reduction::add_round(lanes[lane], items, count, lane);
  walk.left -= count;
}

// Adds a thread's vectors to its lanes: one for each lane of a vector, or where kLanes is 1, one
// for all. A chunk that is not to be added in float is read again.
template <int kVectors, int kLanes, typename Reduction, typename Source, typename Tiling,
          typename Walk>
TORCHBN_HOST_DEVICE void add_vectors(const Reduction& reduction, Source& source,
                                     const Tiling& tiling, Walk& walk,
                                     typename Reduction::Lane (&lanes)[kLanes]) {
  constexpr int kWidth = Reduction::kVectorWidth;
  constexpr int kEach = kWidth / kLanes;
  constexpr int kRounds = rounds_of_chunk<typename Reduction::Value>(kVectors * kEach);
  constexpr int kFullChunk = kRounds * kVectors * kEach;
  const auto lane_of = [&](int w) ->
      typename Reduction::Lane& { return lanes[kLanes == 1 ? 0 : w]; };

  const int all = walk.left;
  bool first = true;
  while (walk.left > 0) {
    Walk again = walk;
    for (int round = 0; round < kRounds && walk.left > 0; ++round) {
      if (!first && walk.left >= kVectors)
        add_round<true, kVectors>(reduction, source, tiling, walk, lanes, false);
      else
        add_round<false, kVectors>(reduction, source, tiling, walk, lanes, first);
      first = false;
    }

    // Few values, the last ones, are off any centre but their own, and weigh too little to matter.
    const int count = (again.left - walk.left) * kEach;
    const int judged = count < kFullChunk / 4 ? kFullChunk / 4 : count;
    bool in_range = true;
    for (const auto& lane : lanes) in_range = in_range && lane.in_range(judged);
    if (!in_range) {
      for (auto& lane : lanes) lane.drop_chunk(judged, int64_t{all - again.left} * kEach);
      for (; again.left > walk.left; --again.left) {
        const auto item = reduction.load(again.next);
        for (int w = 0; w < kWidth; ++w) Reduction::add_in_double(lane_of(w), item, w);
        again.step(tiling);
      }
    }
    for (auto& lane : lanes) lane.end_chunk();
  }
}

// A thread's share of a part of one channel.
template <typename Reduction, typename Source>
TORCHBN_HOST_DEVICE typename Reduction::Sums accumulate(const Reduction& reduction, Source source,
                                                        const ChannelsFirstTiling& tiling,
                                                        ChannelsFirstWalk walk) {
  const int64_t count = int64_t{walk.left} * Reduction::kVectorWidth;
  typename Reduction::Lane lanes[] = {reduction.lane(walk.channel)};
  add_vectors<Source::vectors(Reduction::kVectorsAlong)>(reduction, source, tiling, walk, lanes);
  return reduction.sums_of(lanes[0], count, walk.first_value(tiling));
}

// One sum per lane of a thread's column.
template <typename Reduction>
struct LaneSums {
  typename Reduction::Sums lane[Reduction::kVectorWidth];
};

// A thread's share of a tile.
template <typename Reduction, typename Source>
TORCHBN_HOST_DEVICE LaneSums<Reduction> accumulate(const Reduction& reduction, Source source,
                                                   const ChannelsLastTiling& tiling,
                                                   ChannelsLastWalk walk) {
  constexpr int kWidth = Reduction::kVectorWidth;
  const int count = walk.left;
  typename Reduction::Lane lanes[kWidth];
  LaneChannel of_lane = walk.first_lane;
  for (int w = 0; w < kWidth; ++w) {
    lanes[w] = reduction.lane(of_lane.channel);
    of_lane.step(tiling);
  }
  add_vectors<Source::vectors(Reduction::kVectorsAcross)>(reduction, source, tiling, walk, lanes);

  if (walk.short_vector > 0) {
    const auto item = reduction.load_short(walk.next, walk.short_vector);
    for (int w = 0; w < kWidth; ++w) {
      if (w >= walk.short_vector) continue;
      if (count == 0) Reduction::template choose_center<1>(lanes[w], {item}, 1, w);
      if constexpr (kMaps<Reduction>) reduction.map_one(walk.next, item, w, lanes[w]);
      Reduction::add_in_double(lanes[w], item, w);
    }
  }
  LaneSums<Reduction> sums;
  of_lane = walk.first_lane;
  for (int w = 0; w < kWidth; ++w) {
    sums.lane[w] = reduction.sums_of(lanes[w], count + (w < walk.short_vector ? 1 : 0),
                                     of_lane.first_value(tiling));
    of_lane.step(tiling);
  }
  return sums;
}

}  // namespace torchbn::cuda
