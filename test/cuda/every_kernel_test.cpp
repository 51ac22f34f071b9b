// Every kernel at least once, with as little work as reaches all of its code: for tools that make a
// program a hundred times slower.

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "cuda/layer.h"
#include "support/cases.h"

namespace torchbn::test {
namespace {

using DTypeAndKernels = std::tuple<at::ScalarType, std::string>;

class EveryCudaKernel : public testing::TestWithParam<DTypeAndKernels> {
 protected:
  void SetUp() override {
    TORCHBN_SKIP_WITHOUT(at::Device(at::kCUDA, 0));
    kernels_.emplace(std::get<1>(GetParam()));
  }
  static at::ScalarType dtype() { return std::get<0>(GetParam()); }

 private:
  std::optional<Kernels> kernels_;
};

std::string name_of_test(const testing::TestParamInfo<DTypeAndKernels>& test) {
  return std::string(c10::toString(std::get<0>(test.param))) + "_" + std::get<1>(test.param);
}
INSTANTIATE_TEST_SUITE_P(, EveryCudaKernel,
                         testing::Combine(testing::ValuesIn(all_dtypes()),
                                          testing::ValuesIn(all_kernels())),
                         name_of_test);

// Single values, half and full vectors, each with a tail; several parts per channel; several tiles
// of channels; a tensor that ends within a vector; tiles of planes.
const std::vector<std::vector<int64_t>> kShapes = {
    {3, 5, 7}, {3, 2, 4}, {3, 3, 8}, {2, 2, 20011}, {2, 2, 2504, 8},
    {33, 7},   {5, 1001}, {4000, 3}, {3, 1600, 7},
};

TEST_P(EveryCudaKernel, EqualsCpu) {
  for (const std::vector<int64_t>& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << at::IntArrayRef(shape));
    const Layer cpu = make_layer(shape, dtype(), shape.size() == 4);
    expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
  }
}

TEST_P(EveryCudaKernel, EqualsCpuFromMisalignedMemory) {
  for (const std::vector<int64_t>& shape : {kShapes[2], kShapes[5]}) {
    SCOPED_TRACE(testing::Message() << at::IntArrayRef(shape));
    Layer cpu = make_layer(shape, dtype());
    Layer cuda = cpu.to(at::kCUDA);
    const auto move = [&](at::Tensor& tensor) {
      at::Tensor memory = at::empty({tensor.numel() + 1}, tensor.options());
      tensor = memory.narrow(0, 1, tensor.numel()).view(shape).copy_(tensor);
    };
    move(cuda.input);
    move(cuda.grad_output);
    expect_equal_to_cpu(cpu, cuda);
  }
}

}  // namespace
}  // namespace torchbn::test
