// Tensors that 32 bits cannot count.

#include <cmath>
#include <cstdint>
#include <vector>

#include <c10/cuda/CUDAException.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "cuda/layer.h"

namespace torchbn::test {
namespace {

// More than 2^31 values: needs some 13 GB.
TEST_P(BatchNormCuda, OffsetsGoBeyond32Bits) {
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  if (free < size_t{20} << 30) GTEST_SKIP() << "needs 20 GB of free device memory";
  const auto options = at::TensorOptions().dtype(at::kHalf).device(at::kCUDA);
  const std::vector<std::vector<int64_t>> shapes = {{2, 3, (int64_t{1} << 31) / 6 + 8},
                                                    {(int64_t{1} << 31) / 3 + 5, 3}};
  for (const std::vector<int64_t>& shape : shapes) {
    Layer layer;
    layer.input = at::zeros(shape, options);
    layer.input.select(1, 2).fill_(2);
    layer.input.select(0, -1).add_(1);
    const auto [y, mean, invstd] = layer.train();
    const double share = 1.0 / static_cast<double>(shape[0]);
    EXPECT_NEAR(mean[0].item<double>(), share, 1e-9);
    EXPECT_NEAR(mean[2].item<double>(), 2 + share, 1e-9);
    const double expected = (1 - share) / std::sqrt(share * (1 - share) + 1e-5);
    EXPECT_NEAR(y.flatten()[-1].item<double>(), expected, 2e-3 * expected);
  }
}

}  // namespace
}  // namespace torchbn::test
