#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "core/dtype.h"
#include "cpu/vec/primitives.h"
#include "cpu/vec/row_maps.h"
#include "cpu/vec/sums.h"

// What the tests of the primitives share: which strips they take, and values.
namespace torchbn::test {

using cpu::vec::Strip;

using ElementTypes = testing::Types<float, double, BFloat16, Float16>;
struct ElementNames {
  template <typename T>
  static std::string GetName(int) {
    if (std::is_same_v<T, float>) return "Fp32";
    if (std::is_same_v<T, double>) return "Fp64";
    return std::is_same_v<T, BFloat16> ? "Bf16" : "Fp16";
  }
};

// Elements of a cache line.
template <typename T>
constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));

// Beyond four of the widest vectors, and beyond the lengths from which the loops treat runs another
// way. (Those that depend on the rows too, or are far off, have tests of their own.)
constexpr int64_t kEveryLength = 4 * 32 + 12;
static_assert(kEveryLength > cpu::vec::kLeastAligned);
static_assert(kEveryLength > cpu::vec::kLeastFloatBlocks * cpu::vec::kLanes);

inline std::vector<int64_t> around(std::initializer_list<int64_t> middles, int64_t reach = 1) {
  std::vector<int64_t> all;
  for (int64_t middle : middles)
    for (int64_t n = middle - reach; n <= middle + reach; ++n) all.push_back(n);
  return all;
}

// From the strip's first element to its last.
inline int64_t span(const Strip& s) {
  if (s.rows == 0) return 0;
  return (s.rows - 1) * s.stride + (s.runs - 1) * s.spacing + s.length;
}

// f(index, run, column) for every element.
template <typename F>
void for_elements(const Strip& s, const F& f) {
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t run = 0; run < s.runs; ++run)
      for (int64_t i = 0; i < s.length; ++i) f(row * s.stride + run * s.spacing + i, run, i);
}

inline std::string describe(const Strip& s) {
  return std::to_string(s.rows) + " rows, stride " + std::to_string(s.stride) + ", of " +
         std::to_string(s.runs) + " runs, spacing " + std::to_string(s.spacing) + ", of " +
         std::to_string(s.length);
}

template <typename T>
std::vector<T> normal_values(int64_t size, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> draw;
  std::vector<T> values(size);
  for (T& value : values) value = round_to<T>(draw(engine));
  return values;
}

}  // namespace torchbn::test
