#pragma once

#include <algorithm>
#include <cstdint>

#include "core/extent.h"
#include "cpu/split.h"
#include "cpu/vec/primitives.h"

namespace torchbn::cpu {

// A channel's values in the layout (N, C, S), cut into chunks: several images where planes are
// small, a piece of one image where they are large. Chunks follow from the extent alone, and their
// sums are merged in the order of their numbers. So any thread may sum any chunk and the bits stay.
struct Chunks {
  explicit Chunks(const Extent& e)
      : extent(e),
        images(std::clamp<int64_t>(kTarget / e.spatial, 1, e.batch)),
        length(std::min(e.spatial, kTarget)),
        pieces(ceil_div(e.spatial, length)),
        count(ceil_div(e.batch, images) * pieces) {}

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
  // The way of a thread that sums the chunks of `channels` channels, and then those of their
  // neighbours if there are `more`.
  vec::Route route(int64_t chunk, int64_t channels, bool more) const {
    const int64_t width = channels * extent.spatial;
    return {width, chunk % pieces * length, extent.batch - chunk / pieces * images,
            more ? width - extent.batch * stride() : 0};
  }
  int64_t stride() const { return extent.channels * extent.spatial; }
};

}  // namespace torchbn::cpu
