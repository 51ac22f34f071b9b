#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/extent.h"
#include "cpu/parallel.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// A channel's values in the layout (N, C, S), cut into chunks: several images where planes are
// small, a piece of one image where they are large. Chunks follow from the extent alone; each is
// summed over vec::Lanes, folded in a fixed order, and merged in the order of its number. So any
// thread may sum any chunk and the bits stay.
struct Chunks {
  explicit Chunks(const Extent& e)
      : extent(e),
        images(std::clamp<int64_t>(kTarget / e.spatial, 1, e.batch)),
        length(std::min(e.spatial, kTarget)),
        pieces(div_up(e.spatial, length)),
        count(div_up(e.batch, images) * pieces) {}

  // Long enough to make folding cheap, short enough to share a channel out among threads.
  static constexpr int64_t kTarget = 8192;

  Extent extent;
  int64_t images;  // per chunk, 1 when a plane has several pieces
  int64_t length;  // of a run
  int64_t pieces;  // per plane
  int64_t count;   // of chunks in a channel

  // The chunk's first element in channel 0, and its shape.
  int64_t offset(int64_t chunk) const {
    return chunk / pieces * images * stride() + chunk % pieces * length;
  }
  vec::Strip strip(int64_t chunk) const {
    const int64_t image = chunk / pieces * images;
    const int64_t begin = chunk % pieces * length;
    return {std::min(images, extent.batch - image), std::min(length, extent.spatial - begin),
            stride()};
  }
  int64_t stride() const { return extent.channels * extent.spatial; }
};

// Neighbouring channels that a thread treats together, image by image, so that each visit to an
// image is a long run: scattered short ones starve on TLB misses and idle prefetchers (runs of 64
// KiB instead of 4 make training forward 1.1 to 1.3 times faster on a Zen 4 server). All channels
// of the group stay in the second-level cache between the two passes.
inline constexpr int64_t kMaxGroup = 32;

inline int64_t group_size(const Extent& e, int64_t element_size) {
  constexpr int64_t kVisitBytes = 64 * 1024;
  constexpr int64_t kCacheBytes = 512 * 1024;
  const int64_t plane = e.spatial * element_size;
  const int64_t wanted = std::min(kVisitBytes / plane, kCacheBytes / (plane * e.batch));
  return std::clamp<int64_t>(wanted, 1, kMaxGroup);
}

// Neighbouring channels that one thread treats together.
struct Group {
  int64_t begin;
  int64_t size;
};

template <typename Sums>
Sums fold(const vec::Lanes& lanes) {
  double first[vec::kLanes], second[vec::kLanes];
  std::copy_n(lanes.first, vec::kLanes, first);
  std::copy_n(lanes.second, vec::kLanes, second);
  for (int half = vec::kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      first[i] += first[i + half];
      second[i] += second[i + half];
    }
  }
  return {first[0], second[0]};
}

// A channels-first operation has
//   Sums                                 two sums per channel
//   void begin(channel)                  before the channel is looked at
//   void add(channel, offset, strip, lanes)      strip.runs channels from `channel` on
//   void finish(channel, sums)
//   bool maps() const                    is there an output to write?
//   void map(channel, offset, strip)             likewise
// Each channel runs begin, add..., finish, map... in this order; channels run concurrently.

template <typename Operation>
void run_chunk_major(const Chunks& chunks, Operation& op) {
  using Sums = typename Operation::Sums;
  const int64_t channels = chunks.extent.channels;
  const int64_t spatial = chunks.extent.spatial;
  const int64_t cost = chunks.images * chunks.length;
  const auto partial = std::make_unique<Sums[]>(channels * chunks.count);
  for (int64_t c = 0; c < channels; ++c) op.begin(c);
  for_items(channels * chunks.count, cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i / chunks.count;
      const int64_t chunk = i % chunks.count;
      vec::Lanes lanes = {};
      op.add(c, chunks.offset(chunk) + c * spatial, chunks.strip(chunk), &lanes);
      partial[i] = fold<Sums>(lanes);
    }
  });
  for (int64_t c = 0; c < channels; ++c) {
    Sums sums;
    for (int64_t i = 0; i < chunks.count; ++i) sums.merge(partial[c * chunks.count + i]);
    op.finish(c, sums);
  }
  if (!op.maps()) return;
  for_items(channels * chunks.count, cost, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t c = i / chunks.count;
      const int64_t chunk = i % chunks.count;
      op.map(c, chunks.offset(chunk) + c * spatial, chunks.strip(chunk));
    }
  });
}

// Sums a group while mapping the one before it, chunk by chunk: memory reads and writes at once,
// and what is mapped has not left the cache since it was summed. Either group may be empty.
template <typename Operation>
void run_groups(const Chunks& chunks, const Group& summed, const Group& mapped, Operation& op) {
  using Sums = typename Operation::Sums;
  const int64_t spatial = chunks.extent.spatial;
  Sums sums[kMaxGroup] = {};
  vec::Lanes lanes[kMaxGroup];
  for (int64_t i = 0; i < summed.size; ++i) op.begin(summed.begin + i);
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const int64_t offset = chunks.offset(chunk);
    vec::Strip strip = chunks.strip(chunk);
    strip.spacing = spatial;
    if (summed.size > 0) {
      std::fill_n(lanes, summed.size, vec::Lanes{});
      strip.runs = summed.size;
      op.add(summed.begin, offset + summed.begin * spatial, strip, lanes);
      for (int64_t i = 0; i < summed.size; ++i) sums[i].merge(fold<Sums>(lanes[i]));
    }
    if (mapped.size > 0) {
      strip.runs = mapped.size;
      op.map(mapped.begin, offset + mapped.begin * spatial, strip);
    }
  }
  for (int64_t i = 0; i < summed.size; ++i) op.finish(summed.begin + i, sums[i]);
}

// Would giving each thread whole channels leave some idle for long?
inline bool channels_suffice(const Extent& e) {
  const int64_t threads = at::get_num_threads();
  if (e.numel() <= kGrain) return true;
  const int64_t longest = div_up(e.channels, threads);
  return longest * threads * 4 <= e.channels * 5;
}

template <typename Operation>
void run_channels_first(const Extent& e, int64_t element_size, Operation& op) {
  const Chunks chunks(e);
  if (!channels_suffice(e)) return run_chunk_major(chunks, op);
  const int64_t group = group_size(e, element_size);
  for_items(e.channels, e.count(), [&](int64_t begin, int64_t end) {
    Group mapped{begin, 0};
    for (int64_t c = begin; c < end; c += group) {
      const Group summed{c, std::min(group, end - c)};
      run_groups(chunks, summed, mapped, op);
      if (op.maps()) mapped = summed;
    }
    if (op.maps()) run_groups(chunks, {end, 0}, mapped, op);
  });
}

// The same for an operation without sums, which needs map only. Planes go in memory order:
// consecutive ones are one stream.
template <typename Operation>
void map_channels_first(const Extent& e, const Operation& op) {
  for_items(e.batch * e.channels, e.spatial, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end;) {
      const int64_t channel = plane % e.channels;
      const int64_t planes = std::min(end - plane, e.channels - channel);
      op.map(channel, plane * e.spatial, {1, e.spatial, e.spatial, planes, e.spatial});
      plane += planes;
    }
  });
}

}  // namespace torchbn::cpu
