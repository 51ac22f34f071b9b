// How the kernels share work out among threads: the schedules of both layouts run one simulated
// thread after the other, on an operation that computes nothing and notes who would do what.

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "cpu/channels_first.h"
#include "cpu/channels_last.h"
#include "cpu/split.h"
#include "support/extents.h"

namespace torchbn::test {
namespace {

using cpu::Parts;
using cpu::Table2d;
using cpu::vec::ChannelRange;
using cpu::vec::Route;
using cpu::vec::Strip;

const int64_t kTeams[] = {1, 2, 3, 7, 16, 48, 64};

TEST(PartsTest, CoverEveryItemOnceInEqualShares) {
  for (int64_t threads : kTeams) {
    for (int64_t items = 0; items <= 300; ++items) {
      for (int64_t cost : {int64_t{1}, int64_t{200}, cpu::kGrain, 3 * cpu::kGrain}) {
        const Parts parts(items, cost, threads);
        ASSERT_LE(parts.count, threads);
        if (items == 0) {
          ASSERT_EQ(parts.count, 0);
          continue;
        }
        ASSERT_EQ(parts.begin(0), 0);
        ASSERT_EQ(parts.begin(parts.count), items);
        for (int64_t i = 0; i < parts.count; ++i) {
          const int64_t size = parts.begin(i + 1) - parts.begin(i);
          ASSERT_GE(size, items / parts.count);
          ASSERT_LE(size, ceil_div(items, parts.count));
        }
      }
    }
  }
}

TEST(PartsTest, AreWorthAThread) {
  EXPECT_EQ(Parts(100, cpu::kGrain / 100, 64).count, 1);
  EXPECT_EQ(Parts(2, cpu::kGrain, 64).count, 2);
  EXPECT_EQ(Parts(1000, cpu::kGrain / 10, 64).count, 64);
  EXPECT_EQ(Parts(304, cpu::kGrain / 8, 64).count, 38);
}

// What is added to sums, and what is mapped: elements by simulated thread, and how often each
// element is visited if that is asked for.
struct Work {
  std::vector<int64_t> elements;
  std::vector<unsigned char> visits;
};
struct Log {
  int64_t thread = 0;  // 0 also for what is done outside of parts
  Work added, mapped;
};

struct SimulatedTeam {
  int64_t size;
  Log* log;

  template <typename F>
  void for_items(int64_t items, int64_t cost, const F& f) const {
    const Parts parts(items, cost, size);
    for (int64_t i = 0; i < parts.count; ++i) {
      log->thread = i;
      f(parts.begin(i), parts.begin(i + 1));
    }
    log->thread = 0;
  }
};

class Operation {
 public:
  static constexpr int64_t kSummedBytes = sizeof(float);

  Operation(const Extent& e, bool waits, Log* log)
      : extent_(e), waits_(waits), log_(log), finished_(e.channels) {}

  // Channels first.
  void begin(const ChannelRange&) const {}
  void add_runs(int64_t channel, int64_t offset, const Strip& s, const Route&, double*, double*) {
    note(log_->added, channel, offset, s);
  }
  void map_runs(int64_t channel, int64_t offset, const Strip& s) const {
    note(log_->mapped, channel, offset, s);
  }
  // Channels last: the columns are channels, over and over.
  void add_columns(int64_t offset, const Strip& s, int64_t column, double*, double*) {
    note(log_->added, column, offset, s);
  }
  void map_columns(int64_t offset, const Strip& s, int64_t column) const {
    note(log_->mapped, column, offset, s);
  }
  void finish(const ChannelRange& channels, const double*, const double*) {
    for (int64_t i = 0; i < channels.size; ++i) ++finished_[channels.begin + i];
  }
  bool maps_at_once() const { return !waits_; }
  bool maps_afterwards() const { return waits_; }

  const std::vector<int>& finished() const { return finished_; }

 private:
  void note(Work& work, int64_t first_channel, int64_t offset, const Strip& s) const {
    work.elements[log_->thread] += s.rows * s.runs * s.length;
    if (work.visits.empty()) return;
    const bool first = extent_.layout() == Layout::kChannelsFirst;
    for (int64_t row = 0; row < s.rows; ++row) {
      for (int64_t run = 0; run < s.runs; ++run) {
        const int64_t begin = offset + row * s.stride + run * s.spacing;
        const int64_t end = begin + s.length;
        ASSERT_LE(end, extent_.numel());
        for (int64_t i = begin; i < end; ++i) ++work.visits[i];
        for (int64_t i : {begin, end - 1}) {
          const int64_t column = first_channel + (first ? run : i - begin);
          ASSERT_EQ(channel_of(extent_, i), column % extent_.channels);
        }
      }
    }
  }

  Extent extent_;
  bool waits_;
  Log* log_;
  std::vector<int> finished_;
};

std::string describe_on(const Extent& e, int64_t threads) {
  return describe(e) + " on " + std::to_string(threads) + " threads";
}

enum class Kind {
  kTraining,            // forward and backward: maps wait for sums
  kEvaluationBackward,  // sums, and maps that do not wait for them
  kEvaluation,          // maps alone
};

Log simulate(const Extent& e, int64_t threads, Kind kind, bool visits) {
  const bool reduces = kind != Kind::kEvaluation;
  Log log;
  for (Work* work : {&log.added, &log.mapped}) {
    work->elements.resize(threads);
    if (visits) work->visits.resize(e.numel());
  }
  const SimulatedTeam team{threads, &log};
  Operation operation(e, kind == Kind::kTraining, &log);
  if (e.layout() == Layout::kChannelsFirst) {
    if (reduces)
      cpu::run_channels_first(e, operation, team);
    else
      cpu::map_channels_first(e, operation, team);
  } else {
    const Table2d table(e);
    if (reduces)
      cpu::run_channels_last(table, operation, team);
    else
      cpu::map_channels_last(table, operation, team);
  }
  if (reduces) {
    for (int times : operation.finished()) EXPECT_EQ(times, 1) << describe_on(e, threads);
  }
  return log;
}

class SplitTest : public testing::TestWithParam<Layout> {};
INSTANTIATE_TEST_SUITE_P(, SplitTest,
                         testing::Values(Layout::kChannelsFirst, Layout::kChannelsLast),
                         [](const auto& test) {
                           return test.param == Layout::kChannelsFirst ? "ChannelsFirst"
                                                                       : "ChannelsLast";
                         });

TEST_P(SplitTest, EveryElementOnce) {
  const Extent extents[] = {{1, 1, 2},     {1, 1, 300001}, {3, 1, 90001},  {64, 1, 1024},
                            {2, 3, 20011}, {700, 3, 49},   {9, 6, 8193},   {8, 7, 1600},
                            {2, 21, 9001}, {40, 70, 49},   {5, 150, 9},    {3, 2061, 9},
                            {5, 40, 777},  {2000, 7, 5},   {300, 67, 15},  {4, 9001, 2},
                            {30, 33, 98},  {31, 1152, 49}, {16, 64, 2000}, {2, 100003, 3}};
  for (const Extent& images : extents) {
    const Extent e = extent_of(images.batch, images.channels, images.spatial, GetParam());
    for (int64_t threads : kTeams) {
      for (Kind kind : {Kind::kTraining, Kind::kEvaluationBackward, Kind::kEvaluation}) {
        const Log log = simulate(e, threads, kind, true);
        const auto once = [](const Work& work) {
          return std::all_of(work.visits.begin(), work.visits.end(),
                             [](unsigned char visits) { return visits == 1; });
        };
        EXPECT_TRUE(once(log.mapped)) << describe_on(e, threads);
        if (kind != Kind::kEvaluation) {
          EXPECT_TRUE(once(log.added)) << describe_on(e, threads);
        }
      }
    }
  }
}

TEST(RowsAtOnceTest, KeepTheSumsAndStayNearTheCore) {
  for (int64_t row_bytes : {16, 512, 4096, 4097, 8192, 1 << 20}) {
    const int64_t rows = cpu::rows_at_once(row_bytes);
    EXPECT_GT(rows, 0);
    EXPECT_EQ(rows % cpu::vec::kRowsTogether, 0);
    if (rows > cpu::vec::kRowsTogether) {
      EXPECT_LE(rows * row_bytes, cpu::kCoreBytes / 2);
      EXPECT_GT((rows + cpu::vec::kRowsTogether) * row_bytes, cpu::kCoreBytes / 2);
    }
  }
}

TEST(TinyChannelsTest, AreSharedOutWhereMany) {
  const auto shares = [](const Extent& e) {
    return simulate(e, 2, Kind::kTraining, false).added.elements;
  };
  EXPECT_EQ(shares({1, 1280, 9}), (std::vector<int64_t>{640 * 9, 640 * 9}));
  EXPECT_EQ(shares({1, 512, 9}), (std::vector<int64_t>{512 * 9, 0}));
}

// Of tensors that give each of 64 threads a mebibyte of float32 or more, no thread has more than
// 1.25 times its share, whatever the shape.
TEST_P(SplitTest, LargeTensorsAreSharedEvenly) {
  const Extent extents[] = {// one channel, few channels
                            {1, 1, 17000001},
                            {64, 1, 270000},
                            {17000, 1, 1001},
                            {64, 3, 90000},
                            {16, 6, 180001},
                            {8, 7, 300011},
                            {4, 21, 200003},
                            {2, 21, 1025 * 1025},
                            {5000, 65, 64},
                            {100, 48, 4096},
                            // few images, few values per channel
                            {1, 64, 512 * 512},
                            {2, 17, 500009},
                            {1, 300, 57121},
                            {3, 2061, 4097},
                            {1, 3, 2160 * 3840},
                            {1, 262144, 65},
                            {1, 200003, 129},
                            {1, 16384, 1100},
                            {2, 8000, 1101},
                            {1, 2048, 8320},
                            {1, 3000003, 6},
                            {2, 4000037, 3},
                            // small planes, ordinary nets
                            {256, 1152, 64},
                            {512, 2048, 49},
                            {400, 1000, 49},
                            {32, 64, 112 * 112},
                            {40, 144, 56 * 56},
                            {64, 97, 3136},
                            {20, 129, 6889},
                            {8, 64, 512 * 512}};
  for (const Extent& images : extents) {
    const Extent e = extent_of(images.batch, images.channels, images.spatial, GetParam());
    ASSERT_GE(e.numel() * static_cast<int64_t>(sizeof(float)), 64 << 20) << describe_on(e, 64);
    for (int64_t threads : kTeams) {
      for (bool reduces : {true, false}) {
        const Log log = simulate(e, threads, reduces ? Kind::kTraining : Kind::kEvaluation, false);
        for (const Work* work : {&log.added, &log.mapped}) {
          if (work == &log.added && !reduces) continue;
          const auto& shares = work->elements;
          EXPECT_EQ(std::accumulate(shares.begin(), shares.end(), int64_t{0}), e.numel());
          const double largest =
              static_cast<double>(*std::max_element(shares.begin(), shares.end()));
          EXPECT_LE(largest * threads / e.numel(), 1.25)
              << describe_on(e, threads) << (work == &log.added ? ", sums" : ", map")
              << (reduces ? "" : " alone");
        }
      }
    }
  }
}

}  // namespace
}  // namespace torchbn::test
