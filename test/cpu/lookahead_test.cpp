// What is prefetched is what a thread reads later: the elements that the channels-first schedule
// sums, in their order, against the routes that come with them.

#include "cpu/vec/lookahead.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cpu/channels_first.h"
#include "support/extents.h"

namespace torchbn::test {
namespace {

using cpu::vec::ChannelRange;
using cpu::vec::Lookahead;
using cpu::vec::Route;
using cpu::vec::Strip;

constexpr int64_t kDistance = 8192;

struct OneThread {
  int64_t size = 1;

  template <typename F>
  void for_items(int64_t items, int64_t, const F& f) const {
    f(int64_t{0}, items);
  }
};

// Notes which elements are summed, and of each where the one is said to be that comes later.
class Recorder {
 public:
  static constexpr int64_t kSummedBytes = sizeof(float);

  void begin(const ChannelRange&) const {}
  void add_runs(int64_t, int64_t offset, const Strip& s, const Route& route, double*, double*) {
    const Lookahead lookahead(s, &route, kDistance);
    for (int64_t row = 0; row < s.rows; ++row) {
      for (int64_t run = 0; run < s.runs; ++run) {
        for (int64_t i = 0; i < s.length; ++i) {
          const int64_t position = run * s.spacing + i;
          read.push_back(offset + row * s.stride + position);
          ahead.push_back(lookahead.from(row, position));
        }
      }
    }
  }
  void finish(const ChannelRange&, const double*, const double*) const {}
  bool maps_at_once() const { return false; }
  bool maps_afterwards() const { return true; }
  void map_runs(int64_t, int64_t, const Strip&) const {}

  std::vector<int64_t> read, ahead;
};

TEST(LookaheadTest, FindsWhatIsReadLater) {
  // Small planes in groups, planes of about the distance, ones of several chunks, and channels that
  // are shared out among the threads. Groups are of equal size: of a smaller one behind them a
  // route knows nothing.
  for (const Extent& e : {Extent{32, 256, 49}, Extent{32, 164, 196}, Extent{7, 40, 784},
                          Extent{16, 12, 3136}, Extent{5, 3, 16641}, Extent{9, 4, 8192},
                          Extent{1, 20, 12000}, Extent{3, 2, 90000}, Extent{700, 3, 784}}) {
    const std::string name = describe(e);
    Recorder recorder;
    cpu::run_channels_first(e, recorder, OneThread{});
    const std::vector<int64_t>& read = recorder.read;
    const int64_t count = static_cast<int64_t>(read.size());
    ASSERT_EQ(count, e.numel());
    int64_t found = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (recorder.ahead[i] == 0) continue;  // towards the end of what a thread has to do
      ASSERT_LT(i + kDistance, count) << name << ", element " << i;
      ASSERT_EQ(read[i] + recorder.ahead[i], read[i + kDistance]) << name << ", element " << i;
      ++found;
    }
    EXPECT_GE(found, count - e.channels * kDistance) << name;
    EXPECT_GT(found, 0) << name;
  }
}

TEST(LookaheadTest, LooksNowhereWithoutRoute) {
  const Lookahead lookahead({2, 100, 200, 1, 0}, nullptr, kDistance);
  for (int64_t position : {0, 50, 99}) EXPECT_EQ(lookahead.from(1, position), 0);
}

}  // namespace
}  // namespace torchbn::test
