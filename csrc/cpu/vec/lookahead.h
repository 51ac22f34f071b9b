#pragma once

#include "cpu/vec/primitives.h"

// What to prefetch. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

class Lookahead {
 public:
  // Looks `distance` elements ahead on the route from the strip on; nowhere without a route.
  Lookahead(const Strip& strip, const Route* route, int64_t distance) {
    if (route == nullptr) return;
    route_ = *route;
    distance_ = distance;
    rows_ = distance / route_.width;
    rest_ = distance % route_.width;
    gap_ = strip.stride - route_.width;
  }

  // For what lies so many elements further on in the strip's rows.
  Lookahead behind(int64_t position) const {
    Lookahead moved = *this;
    moved.route_.begin += position;
    return moved;
  }

  bool exists() const { return distance_ != 0; }

  // How far from an element, `position` elements after the strip's begin in its row, lies the one
  // that is read so much later? 0 if none is.
  int64_t from(int64_t row, int64_t position) const {
    const int64_t rows = rows_ + (route_.begin + position + rest_ >= route_.width);
    const int64_t ahead = distance_ + rows * gap_;
    if (row + rows < route_.rows) return ahead;
    return route_.jump == 0 ? 0 : ahead + route_.jump;
  }

 private:
  Route route_{1, 0, 0, 0};
  int64_t distance_ = 0;
  int64_t rows_ = 0;  // whole ones in the distance,
  int64_t rest_ = 0;  // and the rest of it
  int64_t gap_ = 0;   // between two rows
};

}  // namespace
}  // namespace torchbn::cpu::vec
