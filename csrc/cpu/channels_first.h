#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

#include "core/extent.h"
#include "cpu/chunks.h"
#include "cpu/parallel.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// Neighbouring channels that a thread treats together, image by image, so that each visit to an
// image is a long run: scattered short ones starve on TLB misses and idle prefetchers. The channels
// of the group should be in the caches still when they are mapped, beside those that are summed
// meanwhile.
inline constexpr int64_t kMaxGroup = 128;

inline int64_t group_size(const Extent& e, int64_t element_bytes) {
  constexpr int64_t kVisitBytes = 32 * 1024;
  constexpr int64_t kCacheBytes = 1024 * 1024;
  const int64_t plane = e.spatial * element_bytes;
  const int64_t wanted = std::min(kVisitBytes / plane, kCacheBytes / (plane * e.batch));
  return std::clamp<int64_t>(wanted, 1, kMaxGroup);
}

// Neighbouring channels that one thread treats together.
struct Group {
  int64_t begin;
  int64_t size;
};

// A channels-first operation has
//   Sums                                 two sums per channel
//   kSummedTensors                       that add reads
//   void begin(channel)                  before the channel is looked at
//   void add(channel, offset, strip, route, lanes)  strip.runs channels from `channel` on
//   void finish(channel, sums)
//   bool maps() const                    is there an output to write?
//   void map(channel, offset, strip)             likewise
// Each channel runs begin, add..., finish, map... in this order; channels run concurrently.

// What of a group a thread may keep in its second-level cache, beside what it reads meanwhile.
inline constexpr int64_t kShareBytes = 512 * 1024;

// Groups one after the other, each shared out among all threads: channels too large for one
// thread's cache, or too few for all threads. A group is mapped while the next is summed, or at
// once where two would not stay in the caches; the chunks that were summed last come first, being
// there most likely.
template <typename Operation, typename AnyTeam>
void run_in_team(const Chunks& chunks, int64_t channel_bytes, Operation& op, const AnyTeam& team) {
  using Sums = typename Operation::Sums;
  const int64_t channels = chunks.extent.channels;
  const int64_t cache_bytes = team.size * kShareBytes;
  // At least eight chunks for each thread: one more or less matters little then.
  const int64_t least = div_up(8 * team.size, chunks.count);
  const int64_t most = std::clamp(cache_bytes / channel_bytes, std::min(least, channels), channels);
  const int64_t group = div_up(channels, div_up(channels, most));
  const bool overlap = group * channel_bytes <= cache_bytes;
  const int64_t spatial = chunks.extent.spatial;
  const auto partial = std::make_unique<Sums[]>(group * chunks.count);
  const auto pass = [&](const Group& summed, const Group& mapped) {
    const int64_t slots = std::max(summed.size, mapped.size) * chunks.count;
    // A group of fewer chunks than slots is spread over them; calls f(item, channel, chunk).
    const auto visit = [&](const Group& part, int64_t slot, const auto& f) {
      const int64_t items = part.size * chunks.count;
      const int64_t item = slot * items / slots;
      if (item < (slot + 1) * items / slots)
        f(item, part.begin + item / chunks.count, item % chunks.count);
    };
    team.for_items(slots, chunks.images * chunks.length, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        visit(summed, i, [&](int64_t item, int64_t channel, int64_t chunk) {
          vec::Lanes lanes = {};
          op.add(channel, chunks.offset(chunk) + channel * spatial, chunks.strip(chunk),
                 chunks.route(chunk, 1, channel + 1 < summed.begin + summed.size), &lanes);
          partial[item] = fold<Sums>(lanes);
        });
        visit(mapped, begin + end - 1 - i, [&](int64_t, int64_t channel, int64_t chunk) {
          op.map(channel, chunks.offset(chunk) + channel * spatial, chunks.strip(chunk));
        });
      }
    });
  };
  Group mapped{0, 0};
  for (int64_t c = 0; c < channels; c += group) {
    const Group summed{c, std::min(group, channels - c)};
    for (int64_t i = 0; i < summed.size; ++i) op.begin(summed.begin + i);
    pass(summed, mapped);
    for (int64_t i = 0; i < summed.size; ++i) {
      Sums sums;
      for (int64_t j = 0; j < chunks.count; ++j) sums.merge(partial[i * chunks.count + j]);
      op.finish(summed.begin + i, sums);
    }
    if (!op.maps()) continue;
    mapped = summed;
    if (overlap && c + group < channels) continue;
    pass({0, 0}, mapped);
    mapped = {0, 0};
  }
}

// Sums a group while mapping the one before it, chunk by chunk: memory reads and writes at once,
// and what is mapped has not left the cache since it was summed. Either group may be empty. Are
// there more to be summed next?
template <typename Operation>
void run_groups(const Chunks& chunks, const Group& summed, const Group& mapped, bool more,
                Operation& op) {
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
      op.add(summed.begin, offset + summed.begin * spatial, strip,
             chunks.route(chunk, summed.size, more), lanes);
      for (int64_t i = 0; i < summed.size; ++i) sums[i].merge(fold<Sums>(lanes[i]));
    }
    if (mapped.size > 0) {
      strip.runs = mapped.size;
      op.map(mapped.begin, offset + mapped.begin * spatial, strip);
    }
  }
  for (int64_t i = 0; i < summed.size; ++i) op.finish(summed.begin + i, sums[i]);
}

// Would giving each thread whole channels leave none idle for long?
inline bool channels_suffice(const Extent& e, int64_t threads) {
  return e.numel() <= kGrain || shares_evenly(e.channels, 1, threads);
}

template <typename Operation, typename AnyTeam = Team>
void run_channels_first(const Extent& e, int64_t element_size, Operation& op,
                        const AnyTeam& team = {}) {
  const Chunks chunks(e);
  const int64_t summed_bytes = element_size * Operation::kSummedTensors;
  const int64_t channel_bytes = e.count() * summed_bytes;
  if (!channels_suffice(e, team.size) || channel_bytes > kShareBytes)
    return run_in_team(chunks, channel_bytes, op, team);
  const int64_t group = group_size(e, summed_bytes);
  team.for_items(e.channels, e.count(), [&](int64_t begin, int64_t end) {
    Group mapped{begin, 0};
    for (int64_t c = begin; c < end; c += group) {
      const Group summed{c, std::min(group, end - c)};
      run_groups(chunks, summed, mapped, c + group < end, op);
      if (op.maps()) mapped = summed;
    }
    if (op.maps()) run_groups(chunks, {end, 0}, mapped, false, op);
  });
}

// The same for an operation without sums, which needs map only. Planes go in memory order:
// consecutive ones are one stream. Large ones are cut into pieces: there may be fewer planes than
// threads.
template <typename Operation, typename AnyTeam = Team>
void map_channels_first(const Extent& e, const Operation& op, const AnyTeam& team = {}) {
  const int64_t length = std::min(e.spatial, Chunks::kTarget);
  const int64_t pieces = div_up(e.spatial, length);
  const auto map = [&](int64_t plane, int64_t planes, int64_t first, int64_t last) {
    const int64_t from = first * length;
    const int64_t size = std::min(last * length, e.spatial) - from;
    for (const int64_t stop = plane + planes; plane < stop;) {
      const int64_t channel = plane % e.channels;
      const int64_t runs = std::min(stop - plane, e.channels - channel);
      op.map(channel, plane * e.spatial + from, {1, size, size, runs, e.spatial});
      plane += runs;
    }
  };
  team.for_items(e.batch * e.channels * pieces, length, [&](int64_t begin, int64_t end) {
    latest_first(begin, end, length,
                 [&](int64_t first, int64_t last) { for_lines(first, last, pieces, map); });
  });
}

}  // namespace torchbn::cpu
