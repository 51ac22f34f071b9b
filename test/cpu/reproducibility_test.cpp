// The kernels give the same bits for every number of threads and on every instruction set.

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <optional>

#include "cpu/kernel_call.h"
#include "cpu/vec/levels.h"

namespace torchbn::test {
namespace {

using cpu::vec::Level;

struct Results {
  Call training, evaluation;
  bool operator==(const Results& other) const {
    return same(training, other.training) && same(evaluation, other.evaluation);
  }
  static bool same(const Call& a, const Call& b) {
    return a.y.same_bits(b.y) && a.dx.same_bits(b.dx) && a.dw.same_bits(b.dw) &&
           a.db.same_bits(b.db) && a.running_mean.same_bits(b.running_mean) &&
           a.running_var.same_bits(b.running_var) && a.save_mean == b.save_mean &&
           a.save_invstd == b.save_invstd;
  }
};

Results run(const Extent& e, DType dtype) {
  const Doubles x = normal(e.numel(), 3, 2, 1);
  Results results{Call(e, dtype, x), Call(e, dtype, x)};
  results.training.train();
  results.training.backward(true);
  results.evaluation.inference();
  results.evaluation.backward(false);
  return results;
}

std::vector<Extent> shared_out(Layout layout) {
  return {{2, 3, 20011, layout}, {40, 70, 49, layout}, {2000, 7, 5, layout},
          {3, 2061, 9, layout},  {5, 40, 777, layout}, {300, 67, 15, layout}};
}

class Reproducibility : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(All, Reproducibility, every_layout_and_dtype(), name_of_kernel_test);

TEST_P(Reproducibility, SameBitsForEveryThreadCount) {
  const int before = at::get_num_threads();
  for (const Extent& e : shared_out(layout())) {
    std::optional<Results> expected;
    for (int threads = 1; threads <= 4; ++threads) {
      at::set_num_threads(threads);
      const Results actual = run(e, dtype());
      if (!expected) expected = actual;
      EXPECT_TRUE(actual == *expected) << describe(e, dtype()) << " threads " << threads;
    }
  }
  at::set_num_threads(before);
}

TEST_P(Reproducibility, SameBitsForEveryInstructionSet) {
  for (const Extent& e : shared_out(layout())) {
    std::optional<Results> expected;
    for (Level level : levels()) {
      const ForcedLevel forced(level);
      const Results actual = run(e, dtype());
      if (!expected) expected = actual;
      EXPECT_TRUE(actual == *expected) << describe(e, dtype()) << " " << name_of(level);
    }
  }
}

}  // namespace
}  // namespace torchbn::test
