#include "memory_overlap.h"

#include <random>
#include <set>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <gtest/gtest.h>

namespace torchbn {
namespace {

at::Tensor floats(int64_t count, at::Device device = at::kCPU) {
  return at::empty({count}, at::TensorOptions().dtype(at::kFloat).device(device));
}

class MemoryOverlapTest : public testing::TestWithParam<at::Device> {
 protected:
  at::Tensor buffer_ = floats(64, GetParam());
};

TEST_P(MemoryOverlapTest, ExpandedVectorsOverlapThemselves) {
  EXPECT_TRUE(overlaps_itself(floats(1, GetParam()).expand({5})));
  EXPECT_TRUE(overlaps_itself(floats(1, GetParam()).squeeze().expand({2})));
  EXPECT_FALSE(overlaps_itself(buffer_));
  EXPECT_FALSE(overlaps_itself(buffer_.slice(0, 0, 64, 7)));
  // No second element, no overlap.
  EXPECT_FALSE(overlaps_itself(floats(1, GetParam()).expand({1})));
  EXPECT_FALSE(overlaps_itself(buffer_.select(0, 3)));
  EXPECT_FALSE(overlaps_itself(floats(0, GetParam())));
}

TEST_P(MemoryOverlapTest, ColumnsOfOneTensorAreApart) {
  const at::Tensor table = buffer_.view({16, 4});
  for (int64_t a = 0; a < 4; ++a) {
    for (int64_t b = 0; b < 4; ++b)
      EXPECT_EQ(overlap(table.select(1, a), table.select(1, b)), a == b) << a << ", " << b;
  }
  EXPECT_FALSE(overlap(table.select(1, 1), table.slice(1, 2)));
  EXPECT_TRUE(overlap(table.select(1, 3), table.slice(1, 2)));
}

TEST_P(MemoryOverlapTest, ShiftedVectorsShareTheirMiddle) {
  EXPECT_TRUE(overlap(buffer_.slice(0, 0, 10), buffer_.slice(0, 9, 20)));
  EXPECT_FALSE(overlap(buffer_.slice(0, 0, 10), buffer_.slice(0, 10, 20)));
  EXPECT_TRUE(overlap(buffer_.slice(0, 9, 20), buffer_.slice(0, 0, 10)));
}

TEST_P(MemoryOverlapTest, ElementsOfDifferentSizes) {
  const at::Tensor doubles = buffer_.view(at::kDouble);
  // Floats at even places are the first halves of the doubles, at odd places the second halves.
  EXPECT_TRUE(overlap(buffer_.select(0, 7), doubles.select(0, 3)));
  EXPECT_TRUE(overlap(doubles.select(0, 3), buffer_.select(0, 6)));
  EXPECT_FALSE(overlap(doubles.select(0, 3), buffer_.select(0, 8)));
  EXPECT_FALSE(overlap(buffer_.select(0, 5), doubles.select(0, 3)));
  EXPECT_TRUE(overlap(buffer_.slice(0, 1, 64, 2), doubles));
  EXPECT_FALSE(overlap(buffer_.slice(0, 2, 64, 4), doubles.slice(0, 0, 32, 2)));
}

TEST_P(MemoryOverlapTest, NothingOverlapsWithNothing) {
  EXPECT_FALSE(overlap(buffer_.slice(0, 3, 3), buffer_));
  EXPECT_FALSE(overlap(buffer_, buffer_.slice(0, 3, 3)));
  EXPECT_FALSE(overlap(floats(4, GetParam()), floats(4, GetParam())));
}

TEST_P(MemoryOverlapTest, ExpandedOthers) {
  EXPECT_TRUE(overlap(buffer_.slice(0, 4, 8), buffer_.select(0, 5).expand({3, 4})));
  EXPECT_FALSE(overlap(buffer_.slice(0, 4, 8), buffer_.select(0, 8).expand({3, 4})));
}

// Against the sets of bytes, for random views of one buffer.
TEST_P(MemoryOverlapTest, AgreesWithSetsOfAddresses) {
  std::mt19937 random(7);
  const auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % limit); };
  const auto bytes = [](const at::Tensor& view) {
    std::set<int64_t> result;
    std::vector<int64_t> index(view.dim(), 0);
    for (int64_t i = 0; i < view.numel(); ++i) {
      int64_t element = view.storage_offset(), rest = i;
      for (int64_t d = 0; d < view.dim(); ++d) {
        element += rest % view.size(d) * view.stride(d);
        rest /= view.size(d);
      }
      for (int64_t b = 0; b < view.element_size(); ++b)
        result.insert(element * view.element_size() + b);
    }
    return result;
  };
  const auto random_view = [&](int64_t rank) {
    const at::ScalarType dtypes[] = {at::kHalf, at::kFloat, at::kDouble};
    std::vector<int64_t> sizes, strides;
    for (int64_t d = 0; d < rank; ++d) {
      sizes.push_back(1 + below(4));
      strides.push_back(below(7));
    }
    return at::empty({0}, buffer_.options().dtype(dtypes[below(3)]))
        .set_(buffer_.storage(), below(8), sizes, strides);
  };
  int64_t overlapping = 0;
  for (int round = 0; round < 3000; ++round) {
    const at::Tensor vector = random_view(below(2));
    const at::Tensor other = random_view(below(5));
    const std::set<int64_t> ours = bytes(vector), theirs = bytes(other);
    const bool expected = std::any_of(ours.begin(), ours.end(),
                                      [&](int64_t byte) { return theirs.count(byte) != 0; });
    overlapping += expected;
    ASSERT_EQ(overlap(vector, other), expected)
        << vector.dtype() << vector.sizes() << vector.strides() << " from "
        << vector.storage_offset() << "; " << other.dtype() << other.sizes() << other.strides()
        << " from " << other.storage_offset();
  }
  // Both answers are well represented.
  EXPECT_GT(overlapping, 300);
  EXPECT_LT(overlapping, 2700);
}

INSTANTIATE_TEST_SUITE_P(, MemoryOverlapTest, testing::Values(at::kCPU, at::kMeta),
                         [](const auto& device) {
                           return std::string(device.param.is_meta() ? "Meta" : "Cpu");
                         });

TEST(MemoryOverlapAcrossStoragesTest, ComparesAddresses) {
  std::vector<float> memory(16);
  const at::Tensor first = at::from_blob(memory.data(), {8});
  const at::Tensor second = at::from_blob(memory.data() + 7, {8});
  EXPECT_FALSE(first.is_alias_of(second));
  EXPECT_TRUE(overlap(first, second));
  EXPECT_FALSE(overlap(first, second.slice(0, 1)));
}

}  // namespace
}  // namespace torchbn
