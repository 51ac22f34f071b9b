// The element-wise primitives at every size round the vector widths and block boundaries, at every
// alignment: each element has the bits of core's formula, with fused products where the level has
// them; nothing else is read or written.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/vec/column_maps.h"
#include "cpu/vec/guarded_memory.h"
#include "cpu/vec/levels.h"
#include "cpu/vec/run_maps.h"
#include "cpu/vec/strips.h"

namespace torchbn::test {
namespace {

using cpu::vec::kLanes;
using cpu::vec::kLeastPastCaches;
using cpu::vec::kLeastRowsOfColumns;
using cpu::vec::kMostColumns;
using cpu::vec::kPanelColumns;
using cpu::vec::kPanelRows;
using cpu::vec::kSharingRows;
using cpu::vec::Level;
using cpu::vec::Origin;
using cpu::vec::Primitives;

constexpr int64_t kMostElements = 1 << 17;
constexpr int64_t kMostCoefficients = 1 << 14;

template <typename T>
class MapsTest : public testing::Test {
 protected:
  using Value = Compute<T>;

  // Strips with a map for each run, and with one for each column.
  void check_runs(const Strip& s, int64_t alignments) {
    const std::vector<GradientCoefficients<Value>> maps = some_maps(s.runs);
    const auto at = arrays_of(maps, s.runs, s.runs);
    check(
        s, alignments, "affine",
        [&](bool fused, Value, Value x, int64_t run, int64_t) {
          return apply(fused, affine_of(maps[run]), x);
        },
        [&](const Primitives<T>& p, const T*, const T* x, T* y, Origin origin) {
          p.affine(x, y, s, affine_of(at), origin);
        });
    check(
        s, alignments, "gradient",
        [&](bool fused, Value dy, Value x, int64_t run, int64_t) {
          return apply(fused, maps[run], dy, x);
        },
        [&](const Primitives<T>& p, const T* dy, const T* x, T* dx, Origin origin) {
          p.gradient(dy, x, dx, s, at, origin);
        });
  }

  void check_columns(const Strip& s, int64_t alignments) {
    const std::vector<GradientCoefficients<Value>> maps = some_maps(s.length);
    // The arrays have room for kLanes columns, and no more; those of a table repeat its first ones.
    const int64_t columns = s.length + (s.stride == s.length ? cpu::vec::kRepeatedColumns : 0);
    const auto at = arrays_of(maps, columns, std::max<int64_t>(columns, kLanes));
    check(
        s, alignments, "column_affine",
        [&](bool fused, Value, Value x, int64_t, int64_t c) {
          return apply(fused, affine_of(maps[c]), x);
        },
        [&](const Primitives<T>& p, const T*, const T* x, T* y, Origin origin) {
          p.column_affine(x, y, s, affine_of(at), origin);
        });
    check(
        s, alignments, "column_gradient",
        [&](bool fused, Value dy, Value x, int64_t, int64_t c) {
          return apply(fused, maps[c], dy, x);
        },
        [&](const Primitives<T>& p, const T* dy, const T* x, T* dx, Origin origin) {
          p.column_gradient(dy, x, dx, s, at, origin);
        });
  }

 private:
  // On every level, with ordinary stores and ones past the caches, with the output misaligned by
  // 0, ..., alignments - 1 elements (and by one less than a cache line).
  template <typename Formula, typename Run>
  void check(const Strip& s, int64_t alignments, const char* name, const Formula& formula,
             const Run& run) {
    if (this->HasFatalFailure()) return;
    const int64_t size = span(s);
    const std::vector<T> x(x_.begin(), x_.begin() + size), dy(dy_.begin(), dy_.begin() + size);
    // Everything between the results and round them keeps the pattern.
    constexpr int64_t kZone = kLine<T> * 4;
    std::vector<T> expected_of[2];
    for (bool fused : {false, true}) {
      std::vector<T>& expected = expected_of[fused];
      expected.resize(kZone + size + kZone);
      std::memset(static_cast<void*>(expected.data()), kPattern, expected.size() * sizeof(T));
      for_elements(s, [&](int64_t i, int64_t map, int64_t column) {
        const Value result = formula(fused, widen(dy[i]), widen(x[i]), map, column);
        expected[kZone + i] = round_to<T>(result);
      });
    }
    for (int64_t n = 0; n <= alignments; ++n) {
      const int64_t offset = n == alignments ? kLine<T> - 1 : n;
      // Now the one, now the other input lies where reading on would crash.
      const T* x_at = n % 2 == 0 ? in_[0].at_end(x) : in_[0].at_begin(x, offset);
      const T* dy_at = n % 2 == 0 ? in_[1].at_begin(dy, offset) : in_[1].at_end(dy);
      for (Level level : levels()) {
        const ForcedLevel forced(level);
        const std::vector<T>& expected = expected_of[fuses(level)];
        for (const Origin origin : {Origin::kCaches, Origin::kBoth, Origin::kMemory}) {
          T* zone = reinterpret_cast<T*>(out_.begin()) + offset;
          std::memset(static_cast<void*>(zone), kPattern, expected.size() * sizeof(T));
          run(cpu::vec::primitives<T>(), dy_at, x_at, zone + kZone, origin);
          ASSERT_EQ(std::memcmp(zone, expected.data(), expected.size() * sizeof(T)), 0)
              << name << " " << name_of(level) << ", origin " << static_cast<int>(origin) << ": "
              << describe(s) << ", output at " << offset;
        }
      }
    }
  }

  static std::vector<GradientCoefficients<Value>> some_maps(int64_t count) {
    std::vector<GradientCoefficients<Value>> maps(count);
    for (int64_t i = 0; i < count; ++i) {
      const auto value = static_cast<Value>(i);
      maps[i] = {value / 7, 1 + value / 11, 2 - value / 13, value / 17 - 3};
    }
    return maps;
  }
  template <typename V>
  static Affine<V> affine_of(const GradientCoefficients<V>& map) {
    return {map.mean, map.grad_scale, map.shift};
  }

  // Each coefficient of the maps, over and over, in guarded memory for so many values.
  GradientCoefficients<const Value*> arrays_of(const std::vector<GradientCoefficients<Value>>& maps,
                                               int64_t count, int64_t room) const {
    std::array<std::vector<Value>, 4> arrays;
    arrays.fill(std::vector<Value>(room, std::numeric_limits<Value>::max()));
    for (int64_t i = 0; i < count; ++i) {
      const GradientCoefficients<Value>& map = maps[i % maps.size()];
      for (size_t j = 0; j < arrays.size(); ++j)
        arrays[j][i] = std::array{map.mean, map.grad_scale, map.input_scale, map.shift}[j];
    }
    const auto at = [&](size_t j) { return coefficients_[j].at_end(arrays[j]); };
    return {at(0), at(1), at(2), at(3)};
  }

  static constexpr int kPattern = 0xa5;
  const std::vector<T> x_ = normal_values<T>(kMostElements, 1);
  const std::vector<T> dy_ = normal_values<T>(kMostElements, 2);
  const GuardedMemory in_[2]{GuardedMemory(kMostElements * sizeof(T) + 64),
                             GuardedMemory(kMostElements * sizeof(T) + 64)};
  const GuardedMemory out_{static_cast<int64_t>(kMostElements * sizeof(T) + 1024)};
  const GuardedMemory coefficients_[4]{GuardedMemory(kMostCoefficients * sizeof(Value)),
                                       GuardedMemory(kMostCoefficients * sizeof(Value)),
                                       GuardedMemory(kMostCoefficients * sizeof(Value)),
                                       GuardedMemory(kMostCoefficients * sizeof(Value))};
};
TYPED_TEST_SUITE(MapsTest, ElementTypes, ElementNames);

TYPED_TEST(MapsTest, EveryLengthAtEveryAlignment) {
  for (int64_t length = 1; length <= kEveryLength; ++length) {
    this->check_runs({1, length, length}, kLine<TypeParam>);
    this->check_columns({1, length, length}, kLine<TypeParam>);
  }
}

TYPED_TEST(MapsTest, EveryLengthOfSeveralRowsAndRuns) {
  for (int64_t length = 1; length <= kEveryLength; ++length) {
    this->check_runs({2, length, 3 * length + 5, 3, length}, kLine<TypeParam>);
    this->check_runs({2, length, 3 * length + 8, 2, length + 3}, kLine<TypeParam>);
    // Rows that lie close share their coefficients.
    for (int64_t rows : {2, 3, 4, 5, 8, 9, 17}) {
      this->check_columns({rows, length, length}, kLine<TypeParam>);
      this->check_columns({rows, length, length + 3}, kLine<TypeParam>);
    }
  }
}

// Rows that are cache lines, and the shortest others that pass the caches.
TYPED_TEST(MapsTest, LengthsFromWhichStoresPassTheCaches) {
  for (int64_t length : around({256, 512, kLeastPastCaches<TypeParam>}, 2)) {
    for (int64_t stride : {length, length + 1, length + kLine<TypeParam>}) {
      this->check_runs({2, length, stride}, kLine<TypeParam>);
      this->check_columns({2, length, stride}, kLine<TypeParam>);
    }
  }
  for (int64_t length : {64, 1023, 1041, 1067}) {
    this->check_runs({3, length, 1100}, kLine<TypeParam>);
    this->check_columns({3, length, 1100}, kLine<TypeParam>);
  }
}

// Neighbouring runs make one row, with blocks across their seams; from a length on its stores pass
// the caches.
TYPED_TEST(MapsTest, NeighbouringRuns) {
  for (int64_t length : {8, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 100, 196, 784}) {
    for (int64_t runs : around({kLeastPastCaches<TypeParam> / length + 1}))
      this->check_runs({2, length, runs * length + 3, runs, length}, kLine<TypeParam>);
    this->check_runs({2, length, 2 * length, 2, length}, kLine<TypeParam>);
  }
  // Runs shorter than a block, and many narrow rows, are laid out as columns, so many at a time.
  constexpr int64_t kColumns = kPanelColumns<TypeParam>;
  for (int64_t length = 1; length <= 32; ++length)
    for (int64_t runs : around({kColumns / length, 2 * kColumns / length}))
      if (runs > 0) this->check_runs({3, length, runs * length + 3, runs, length}, 2);
  for (int64_t length : {33, 48, 100})
    for (int64_t runs : around({kColumns / 2 / length}))
      if (runs > 1)
        for (int64_t rows :
             around({kLeastRowsOfColumns, kLeastRowsOfColumns + kSharingRows<TypeParam>}))
          this->check_runs({rows, length, runs * length, runs, length}, 2);
}

// Rows of many columns are cut into panels, of which the last may be up to twice as wide.
TYPED_TEST(MapsTest, PanelsOfColumns) {
  constexpr int64_t kMost = kMostColumns;
  constexpr int64_t kPanel = kPanelColumns<TypeParam>;
  for (int64_t length :
       around({kMost, kMost + kPanel / 2, 2 * kPanel, 3 * kPanel, 4 * kPanel - kLanes}, 2))
    for (int64_t rows : {1, 3})
      for (int64_t stride : {length, length + 1}) this->check_columns({rows, length, stride}, 2);
  for (int64_t rows : around({kPanelRows, 2 * kPanelRows}))
    for (int64_t stride : {kMost + 1, kMost + 3}) this->check_columns({rows, kMost + 1, stride}, 1);
}

}  // namespace
}  // namespace torchbn::test
