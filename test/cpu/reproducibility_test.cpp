// The kernels give the same bits for every number of threads, and on every instruction set that
// rounds alike.

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <optional>

#include "cpu/vec/levels.h"
#include "support/kernel_call.h"

namespace torchbn::test {
namespace {

using cpu::vec::Level;

struct Results {
  Call training, evaluation;
  bool operator==(const Results& other) const {
    return training.same_bits(other.training) && evaluation.same_bits(other.evaluation);
  }
};

Call fresh(const Extent& e, DType dtype) {
  return Call(e, dtype, normal(e.numel(), 3, 2, 1));
}

Results run(const Call& call) {
  Results results{call, call};
  results.training.train();
  results.training.backward(true);
  results.evaluation.inference();
  results.evaluation.backward(false);
  return results;
}

// Shapes that the kernels share out in different ways; which one may depend on the threads.
std::vector<Extent> shared_out(Layout layout) {
  return {extent_of(2, 3, 20011, layout),   // planes of several chunks
          extent_of(70, 3, 49, layout),     // chunks of several images; several positions in a row
          extent_of(40, 70, 49, layout),    // groups of channels
          extent_of(5, 150, 9, layout),     // groups of as many channels as may be
          extent_of(3, 2061, 9, layout),    // few rows, more columns than a panel
          extent_of(5, 40, 777, layout),    // groups of one channel
          extent_of(2000, 7, 5, layout),    // many short runs
          extent_of(300, 67, 15, layout),   // many rows
          extent_of(1, 1, 40001, layout),   // one channel
          extent_of(4, 9001, 1, layout),    // columns alone to share out
          extent_of(1030, 33, 1, layout)};  // rows and columns
}

class Reproducibility : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(All, Reproducibility, every_layout_and_dtype(), name_of_kernel_test);

TEST_P(Reproducibility, SameBitsForEveryThreadCount) {
  const int before = at::get_num_threads();
  for (const Extent& e : shared_out(layout())) {
    const Call call = fresh(e, dtype());
    std::optional<Results> expected;
    for (int threads = 1; threads <= 8; ++threads) {
      at::set_num_threads(threads);
      const Results actual = run(call);
      if (!expected) expected = actual;
      EXPECT_TRUE(actual == *expected) << describe(e, dtype()) << " threads " << threads;
    }
  }
  at::set_num_threads(before);
}

TEST_P(Reproducibility, SameBitsForEveryInstructionSet) {
  for (const Extent& e : shared_out(layout())) {
    const Call call = fresh(e, dtype());
    std::optional<Results> expected_of[2];
    for (Level level : levels()) {
      const ForcedLevel forced(level);
      auto& expected = expected_of[fuses(level)];
      const Results actual = run(call);
      if (!expected) expected = actual;
      EXPECT_TRUE(actual == *expected) << describe(e, dtype()) << " " << name_of(level);
    }
  }
}

// Stores past the caches, which only large tensors get.
TEST(ReproducibilityBeyondTheCaches, SameBitsForEveryLevelAndThreadCount) {
  const int before = at::get_num_threads();
  for (const Extent& e : {Extent{3, 5, 282001}, Extent{70001, 61, 1}}) {
    const Call call = fresh(e, DType::kFloat32);
    std::optional<Results> expected_of[2];
    for (Level level : levels()) {
      const ForcedLevel forced(level);
      auto& expected = expected_of[fuses(level)];
      for (int threads : {1, 3, 8}) {
        at::set_num_threads(threads);
        const Results actual = run(call);
        if (!expected) expected = actual;
        EXPECT_TRUE(actual == *expected)
            << describe(e, call.dtype) << " " << name_of(level) << " threads " << threads;
      }
    }
  }
  at::set_num_threads(before);
}

}  // namespace
}  // namespace torchbn::test
