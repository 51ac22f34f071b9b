#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/extent.h"
#include "core/integers.h"
#include "cpu/caches.h"
#include "cpu/chunks.h"
#include "cpu/parallel.h"
#include "cpu/split.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// Neighbouring channels that a thread treats together, image by image, so that each visit to an
// image is a long run: scattered short ones starve on TLB misses and idle prefetchers.
inline constexpr int64_t kMaxGroup = 128;

inline int64_t group_size(const Extent& e, int64_t element_bytes) {
  constexpr int64_t kVisitBytes = 32 * 1024;
  const int64_t plane = e.spatial * element_bytes;
  const int64_t wanted = std::min(kVisitBytes / plane, kCoreBytes / (plane * e.batch));
  return std::clamp<int64_t>(wanted, 1, kMaxGroup);
}

// The least that a channel takes beside its elements, in such: of tiny planes it is most of the
// work.
inline constexpr int64_t kChannelCost = 8;

// The sums of up to kMaxGroup channels.
struct GroupSums {
  double first[kMaxGroup] = {};
  double second[kMaxGroup] = {};
};

// The sums of one chunk of a channel.
struct ChunkSums {
  double first = 0;
  double second = 0;
};

// A channels-first operation has
//   kSummedBytes                           that add_runs reads of an element
//   void begin(channels)                   before these are looked at
//   void add_runs(channel, offset, strip, route, first, second)
//                                          to the sums of strip.runs channels from `channel` on
//   void finish(channels, first, second)   the two sums of each
//   bool maps_at_once() const              whether it maps right after add_runs, while what both
//                                          read is in the caches
//   bool maps_afterwards() const           whether it maps after finish
//   void map_runs(channel, offset, strip)  of the same channels
// Each channel runs begin, add_runs..., finish, map_runs... in this order; channels run
// concurrently.

// Merges what each channel's chunks have left in `partial`, in their order.
template <typename Operation>
void finish_group(const vec::ChannelRange& group, const ChunkSums* partial, int64_t chunks,
                  Operation& op) {
  for (int64_t i = 0; i < group.size; i += kMaxGroup) {
    const vec::ChannelRange channels{group.begin + i, std::min(group.size - i, kMaxGroup)};
    GroupSums sums;
    for (int64_t c = 0; c < channels.size; ++c) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk, ++partial) {
        sums.first[c] += partial->first;
        sums.second[c] += partial->second;
      }
    }
    op.finish(channels, sums.first, sums.second);
  }
}

// Groups one after the other, each shared out among all threads: channels too large for one
// thread's cache, or too few for all threads. Where nothing is read again, all are one group.
template <typename Operation, typename AnyTeam>
void run_in_team(const Chunks& chunks, int64_t channel_bytes, Operation& op, const AnyTeam& team) {
  const int64_t channels = chunks.extent.channels;
  const int64_t least = ceil_div(kItemsPerThread * team.size, chunks.count);
  const int64_t kept = op.maps_afterwards() ? team.size * kCoreBytes / channel_bytes : channels;
  const int64_t most = std::clamp(kept, std::min(least, channels), channels);
  const int64_t size = ceil_div(channels, ceil_div(channels, most));
  const auto partial = std::make_unique<ChunkSums[]>(size * chunks.count);
  for (int64_t c = 0; c < channels; c += size) {
    const vec::ChannelRange group{c, std::min(size, channels - c)};
    const int64_t items = group.size * chunks.count;
    const int64_t cost = chunks.images * chunks.length;
    // f(channel, chunk, offset)
    const auto visit = [&](int64_t item, const auto& f) {
      const int64_t channel = group.begin + item / chunks.count;
      const int64_t chunk = item % chunks.count;
      f(channel, chunk, chunks.offset(chunk) + channel * chunks.extent.spatial);
    };
    op.begin(group);
    team.for_items(items, cost, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        visit(item, [&](int64_t channel, int64_t chunk, int64_t offset) {
          const vec::Strip strip = chunks.strip(chunk);
          const bool more = channel + 1 < group.begin + group.size;
          ChunkSums sums;
          op.add_runs(channel, offset, strip, chunks.route(chunk, 1, more), &sums.first,
                      &sums.second);
          if (op.maps_at_once()) op.map_runs(channel, offset, strip);
          partial[item] = sums;
        });
      }
    });
    finish_group(group, partial.get(), chunks.count, op);
    if (!op.maps_afterwards()) continue;
    team.for_items(items, cost, [&](int64_t begin, int64_t end) {
      for (int64_t item = end; item-- > begin;) {
        visit(item, [&](int64_t channel, int64_t chunk, int64_t offset) {
          op.map_runs(channel, offset, chunks.strip(chunk));
        });
      }
    });
  }
}

// Sums a group and then maps it, what was summed last first: it is in the caches most likely. (A
// group that was summed meanwhile would evict it.) Are there `more` channels behind it to be summed
// next?
template <typename Operation>
void run_group(const Chunks& chunks, const vec::ChannelRange& group, bool more, Operation& op) {
  const int64_t first = group.begin * chunks.extent.spatial;
  const auto strip = [&](int64_t chunk) {
    vec::Strip result = chunks.strip(chunk);
    result.runs = group.size;
    result.spacing = chunks.extent.spatial;
    return result;
  };
  GroupSums sums;
  op.begin(group);
  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    op.add_runs(group.begin, first + chunks.offset(chunk), strip(chunk),
                chunks.route(chunk, group.size, more), sums.first, sums.second);
    if (op.maps_at_once()) op.map_runs(group.begin, first + chunks.offset(chunk), strip(chunk));
  }
  op.finish(group, sums.first, sums.second);
  if (!op.maps_afterwards()) return;
  for (int64_t chunk = chunks.count; chunk-- > 0;)
    op.map_runs(group.begin, first + chunks.offset(chunk), strip(chunk));
}

// Would giving each thread whole channels leave none idle for long?
inline bool channels_suffice(const Extent& e, int64_t threads) {
  return e.numel() <= kGrain || shares_evenly(e.channels, 1, threads);
}

template <typename Operation, typename AnyTeam = Team>
void run_channels_first(const Extent& e, Operation& op, const AnyTeam& team = {}) {
  const Chunks chunks(e);
  const int64_t channel_bytes = e.count() * Operation::kSummedBytes;
  const bool exceeds_core = op.maps_afterwards() && channel_bytes > kCoreBytes;
  if (!channels_suffice(e, team.size) || exceeds_core)
    return run_in_team(chunks, channel_bytes, op, team);
  const int64_t group = group_size(e, Operation::kSummedBytes);
  team.for_items(e.channels, e.count() + kChannelCost, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c += group)
      run_group(chunks, {c, std::min(group, end - c)}, c + group < end, op);
  });
}

// The same for an operation without sums, which needs map_runs only. Planes go in memory order:
// consecutive ones are one stream. Large ones are cut into pieces: there may be fewer planes than
// threads.
template <typename Operation, typename AnyTeam = Team>
void map_channels_first(const Extent& e, const Operation& op, const AnyTeam& team = {}) {
  const int64_t length = std::min(e.spatial, Chunks::kTarget);
  const int64_t pieces = ceil_div(e.spatial, length);
  const auto map = [&](int64_t plane, int64_t planes, int64_t first, int64_t last) {
    const int64_t from = first * length;
    const int64_t size = std::min(last * length, e.spatial) - from;
    for (const int64_t stop = plane + planes; plane < stop;) {
      const int64_t channel = plane % e.channels;
      const int64_t images = channel == 0 ? std::max<int64_t>((stop - plane) / e.channels, 1) : 1;
      const int64_t runs = std::min(stop - plane, e.channels - channel);
      op.map_runs(channel, plane * e.spatial + from,
                  {images, size, e.channels * e.spatial, runs, e.spatial});
      plane += images * runs;
    }
  };
  team.for_items(e.batch * e.channels * pieces, length, [&](int64_t begin, int64_t end) {
    latest_first(begin, end, length,
                 [&](int64_t first, int64_t last) { for_lines(first, last, pieces, map); });
  });
}

}  // namespace torchbn::cpu
