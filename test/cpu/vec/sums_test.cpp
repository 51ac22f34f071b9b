// The reducing primitives at every size round the vector widths and block boundaries, at every
// alignment: sums of integers, in which nothing is rounded, are exact; sums of other values have
// the same bits at every alignment and on every level that fuses products, and those of the
// baseline are near them; nothing outside is read or written.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cpu/vec/guarded_memory.h"
#include "cpu/vec/levels.h"
#include "cpu/vec/strips.h"
#include "cpu/vec/sums.h"

namespace torchbn::test {
namespace {

using cpu::vec::kElementsPerRow;
using cpu::vec::kLanes;
using cpu::vec::kLeastFloatBlocks;
using cpu::vec::kLeastRows;
using cpu::vec::kLongestShortRun;
using cpu::vec::kRunsTogether;
using cpu::vec::kSumColumns;
using cpu::vec::Level;
using cpu::vec::Origin;
using cpu::vec::Primitives;

constexpr int64_t kMostElements = 1 << 17;
constexpr int64_t kMostChannels = 2048;

enum class Values {
  kIntegers,  // and integer pivots
  kNormal,
  kOfEverySize,  // beyond float's range when squared, and below it
};

template <typename T>
std::vector<T> values_of(Values kind, unsigned seed) {
  if (kind == Values::kNormal) return normal_values<T>(kMostElements, seed);
  std::mt19937 engine(seed);
  std::vector<T> values(kMostElements);
  if (kind == Values::kIntegers) {
    // So small that float sums of 64 squares about the mean of 16 values are exact.
    std::uniform_int_distribution<int> draw(-12, 12);
    for (T& value : values) value = round_to<T>(draw(engine));
  } else {
    const bool narrow_range = std::is_same_v<T, Float16>;
    std::normal_distribution<double> draw;
    std::uniform_int_distribution<int> exponent(narrow_range ? -14 : -90, narrow_range ? 13 : 90);
    // Neighbours of one size: else the largest would be all that is left of a sum.
    int size = 0, left = 0;
    for (T& value : values) {
      if (left-- == 0) size = exponent(engine), left = 40;
      value = round_to<T>(std::ldexp(draw(engine), size));
    }
  }
  return values;
}

template <typename T>
class SumsTest : public testing::Test {
 protected:
  // Strips of runs, and of columns: each against its own reference.
  void check_runs(const Strip& s, int64_t alignments) {
    check(
        s, s.runs, alignments,
        [&](const Primitives<T>& p, const T* dy, const T* x, const double* pivots, double* sums,
            Origin origin) {
          const cpu::vec::Route route{(s.runs - 1) * s.spacing + s.length, 0, s.rows,
                                      -s.rows * s.stride};
          const cpu::vec::Route* prefetched = origin == Origin::kCaches ? nullptr : &route;
          dy == nullptr ? p.add_moments(x, s, pivots, sums, sums + s.runs, prefetched)
                        : p.add_gradient(dy, x, s, pivots, sums, sums + s.runs, prefetched);
        },
        [](int64_t run, int64_t) { return run; });
  }

  void check_columns(const Strip& s, int64_t alignments) {
    const int64_t room = std::max<int64_t>(s.length, kLanes);
    check(
        s, room, alignments,
        [&](const Primitives<T>& p, const T* dy, const T* x, const double* pivots, double* sums,
            Origin origin) {
          dy == nullptr ? p.add_column_moments(x, s, pivots, sums, sums + room, origin)
                        : p.add_column_gradient(dy, x, s, pivots, sums, sums + room, origin);
        },
        [](int64_t, int64_t column) { return column; });
  }

 private:
  // `channels` pivots, and sums about them: the first ones of all channels, then the second ones.
  template <typename Run, typename ChannelOf>
  void check(const Strip& s, int64_t channels, int64_t alignments, const Run& run,
             const ChannelOf& channel_of) {
    if (this->HasFatalFailure()) return;
    const int64_t size = span(s), doubles = 2 * channels;
    for (Values kind : {Values::kIntegers, Values::kNormal, Values::kOfEverySize}) {
      // What lies between the runs must not get into the sums.
      std::vector<T> x(size, round_to<T>(std::numeric_limits<double>::quiet_NaN())), dy = x;
      for_elements(s, [&](int64_t i, int64_t, int64_t) {
        x[i] = values_[kind].x[i];
        dy[i] = values_[kind].dy[i];
      });
      std::vector<double> pivots(channels), initial(doubles);
      for (int64_t c = 0; c < channels; ++c)
        pivots[c] = kind == Values::kIntegers ? static_cast<double>(c % 7 - 3) : 0.01 * c - 0.3;
      for (int64_t i = 0; i < doubles; ++i) initial[i] = static_cast<double>(i % 5);
      const double* pivots_at = pivots_.at_end(pivots);

      for (bool gradient : {false, true}) {
        std::vector<double> exact[2];
        if (kind == Values::kIntegers) {
          for (int which : {0, 1}) {
            const auto begin = initial.begin() + which * channels;
            exact[which].assign(begin, begin + channels);
          }
          for_elements(s, [&](int64_t i, int64_t r, int64_t column) {
            const int64_t c = channel_of(r, column);
            const double centered = widen(x[i]) - pivots[c];
            const double first = gradient ? widen(dy[i]) : centered;
            exact[0][c] += first;
            exact[1][c] += first * centered;
          });
        }
        std::optional<std::vector<double>> expected_of[2];
        for (int64_t n = 0; n <= alignments; ++n) {
          const int64_t offset = n == alignments ? kLine<T> - 1 : n;
          // Now the one, now the other input lies where reading on would crash.
          const T* x_at = n % 2 == 0 ? in_[0].at_end(x) : in_[0].at_begin(x, offset);
          const T* dy_at = n % 2 == 0 ? in_[1].at_begin(dy, offset) : in_[1].at_end(dy);
          for (Level level : levels()) {
            const ForcedLevel forced(level);
            double* sums = out_.at_end(initial);
            const auto origin = static_cast<Origin>((n + static_cast<int64_t>(level)) % 3);
            run(cpu::vec::primitives<T>(), gradient ? dy_at : nullptr, x_at, pivots_at, sums,
                origin);
            const std::vector<double> actual(sums, sums + doubles);
            const auto where = [&] {
              return std::string(name_of(level)) + (gradient ? " gradient: " : " moments: ") +
                     describe(s) + ", alignment " + std::to_string(offset) + ", values " +
                     std::to_string(static_cast<int>(kind));
            };
            for (int which : {0, 1}) {
              for (size_t c = 0; c < exact[which].size(); ++c)
                ASSERT_EQ(sums[which * channels + c], exact[which][c])
                    << where() << " sum " << which << " of channel " << c;
            }
            auto& expected = expected_of[fuses(level)];
            if (!expected) expected = actual;
            ASSERT_EQ(std::memcmp(actual.data(), expected->data(), doubles * sizeof(double)), 0)
                << where();
          }
        }
        if (kind != Values::kNormal || !expected_of[true]) continue;
        const double rounding = sizeof(T) == 2 ? 1e-6 : 1e-13;
        for (int64_t i = 0; i < doubles; ++i)
          ASSERT_NEAR((*expected_of[false])[i], (*expected_of[true])[i], rounding * (20 + 5 * size))
              << describe(s);
      }
    }
  }

  struct Inputs {
    std::vector<T> x, dy;
  };
  static std::map<Values, Inputs> all_values() {
    std::map<Values, Inputs> all;
    for (Values kind : {Values::kIntegers, Values::kNormal, Values::kOfEverySize})
      all[kind] = {values_of<T>(kind, 1), values_of<T>(kind, 2)};
    return all;
  }
  std::map<Values, Inputs> values_ = all_values();
  const GuardedMemory in_[2]{GuardedMemory(kMostElements * sizeof(T) + 64),
                             GuardedMemory(kMostElements * sizeof(T) + 64)};
  const GuardedMemory out_{static_cast<int64_t>(2 * kMostChannels * sizeof(double))};
  const GuardedMemory pivots_{static_cast<int64_t>(kMostChannels * sizeof(double))};
};
TYPED_TEST_SUITE(SumsTest, ElementTypes, ElementNames);

TYPED_TEST(SumsTest, EveryLengthAtEveryAlignment) {
  for (int64_t length = 1; length <= kEveryLength; ++length) {
    this->check_runs({1, length, length}, kLine<TypeParam>);
    this->check_columns({1, length, length}, kLine<TypeParam>);
  }
}

TYPED_TEST(SumsTest, EveryLengthOfSeveralRunsAndRows) {
  for (int64_t length = 1; length <= kEveryLength; ++length) {
    this->check_runs({3, length, 3 * length + 5, 3, length}, 5);
    // Rows enough that short runs are summed as columns, of half types in float.
    constexpr int64_t kRows = kLeastFloatBlocks;
    this->check_runs({kRows, length, length}, 5);
    this->check_runs({kRows + 1, length, 5 * length, 2, length + 3}, 5);
    // Rows are summed by fours, those of half types in float where they are enough.
    for (int64_t rows : {int64_t{0}, int64_t{4}, kRows - 1, kRows, kRows + 1})
      this->check_columns({rows, length, length + rows % 3}, 3);
  }
}

TYPED_TEST(SumsTest, EveryNumberOfRows) {
  for (int64_t rows = 0; rows <= 140; ++rows) {
    for (int64_t length : {3, 16, 49}) {
      this->check_columns({rows, length, length}, 2);
      if (rows > 0) this->check_runs({rows, length, 2 * length + 1, 2, length}, 2);
    }
  }
}

// Half types are summed in float at least 8 blocks of 16 at a time and 64 at most, these in chains
// of 8.
TYPED_TEST(SumsTest, LengthsRoundTheBlocksOfARun) {
  for (int64_t length :
       around({128 + 16, 256, 512, 512 + 128, 1024, 1024 + 128, 1024 + 512, 2048}, 2)) {
    this->check_runs({1, length, length}, 4);
    this->check_runs({3, length, 2 * length + 1, 2, length}, 1);
  }
  for (int64_t length = 480; length <= 560; ++length) this->check_runs({1, length, length}, 1);
  for (int64_t length = 992; length <= 1072; ++length) this->check_runs({1, length, length}, 1);
}

// Lengths up to the longest run that may be summed as columns, and the one behind it.
template <typename T>
std::vector<int64_t> lengths_of_short_runs() {
  constexpr int64_t kLongest = kLongestShortRun<T>;
  std::vector<int64_t> lengths;
  for (int64_t length : {1, 7, 16, 49, 73, 100, 196})
    if (length < kLongest) lengths.push_back(length);
  lengths.insert(lengths.end(), {kLongest, kLongest + 1});
  return lengths;
}

// The fewest rows of which runs of a length are summed as columns.
template <typename T>
int64_t rows_for_columns(int64_t length) {
  return std::max(kLeastRows<T>, ceil_div(length, kElementsPerRow));
}

TYPED_TEST(SumsTest, RunsThatAreJustShort) {
  for (int64_t length : lengths_of_short_runs<TypeParam>()) {
    for (int64_t rows : around({rows_for_columns<TypeParam>(length)})) {
      this->check_runs({rows, length, length + 3}, 2);
      this->check_runs({rows, length, 2 * length + 1, 2, length}, 2);
    }
  }
}

// Neighbouring short runs are summed together while they are no more columns than a sum takes.
TYPED_TEST(SumsTest, ShortRunsTogether) {
  for (int64_t length : lengths_of_short_runs<TypeParam>()) {
    const int64_t rows = rows_for_columns<TypeParam>(length);
    for (int64_t runs : around({kSumColumns / length, 2 * kSumColumns / length})) {
      if (runs < 1) continue;
      this->check_runs({rows, length, runs * length, runs, length}, 1);
    }
    this->check_runs({rows, length, 5 * (length + 1), 5, length + 1}, 1);
  }
}

// Longer ones lie side by side up to a number, and are read row by row or, the shorter ones, run by
// run.
TYPED_TEST(SumsTest, RunsSideBySide) {
  for (int64_t runs : around({kRunsTogether, 2 * kRunsTogether})) {
    for (int64_t length : {17, 100, 130})
      for (int64_t rows : {1, 2, 6})
        this->check_runs({rows, length, runs * length, runs, length}, 1);
  }
}

// So many columns are summed together.
TYPED_TEST(SumsTest, PanelsOfColumns) {
  for (int64_t length :
       around({kSumColumns - kLanes, kSumColumns, kSumColumns + kLanes, 2 * kSumColumns}, 2))
    for (int64_t rows : {int64_t{1}, int64_t{5}, kLeastFloatBlocks, int64_t{33}})
      this->check_columns({rows, length, length + 1}, 2);
}

}  // namespace
}  // namespace torchbn::test
