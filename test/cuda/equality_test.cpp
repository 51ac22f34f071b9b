// The CUDA kernels against the CPU ones, through the internal operators.

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "cuda/layer.h"
#include "support/cases.h"

namespace torchbn::test {
namespace {

// Vector widths and tails, small planes, odd and large channel counts, splits; channels that one
// block holds, or a cluster of two to eight, or none; tiles of planes.
const std::vector<std::vector<int64_t>> kShapes = {
    {2, 1},
    {2, 3},
    {33, 7},
    {32, 64},
    {1001, 65},
    {5, 1001},
    {4000, 6},
    {2, 3, 1},
    {2, 3, 2},
    {3, 5, 7},
    {4, 6, 4099},
    {2, 3, 7, 7},
    {16, 64, 14, 14},
    {32, 33, 7, 7},
    {3, 7, 8, 8},
    {8, 3, 128, 96},
    {20, 6, 64, 256},
    {1, 1, 300, 301},
    {2, 4, 3, 5, 7},
    {2, 600, 2, 3, 3},
    {2, 8, 4, 8, 8},
    {3, 2048, 3, 3},
    {64, 1, 56, 56},
    {2, 70000, 1, 2},
    {32, 256, 28, 28},
    {32, 8, 112, 112},
    {9, 1600, 7, 7},
    {40, 160, 7, 7},
    {16, 264, 14, 14},
    {40, 1600, 7, 7},
    {2048, 264},
    {30000, 64},
};

TEST_P(BatchNormCuda, EqualsCpuForEveryDtypeShapeAndLayout) {
  for (const at::ScalarType dtype : all_dtypes())
    for (const std::vector<int64_t>& shape : kShapes)
      for (const bool channels_last : {false, true}) {
        if ((channels_last && shape.size() < 4) || takes_too_long(shape)) continue;
        SCOPED_TRACE(testing::Message() << c10::toString(dtype) << " " << at::IntArrayRef(shape)
                                        << (channels_last ? " channels-last" : ""));
        const Layer cpu = make_layer(shape, dtype, channels_last);
        expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
      }
}

TEST_P(BatchNormCuda, OptionalArgumentsMayBeAbsent) {
  for (const bool channels_last : {false, true}) {
    Layer cpu = make_layer({4, 6, 5, 8}, at::kFloat, channels_last);
    cpu.bias.reset();
    expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
    cpu.weight.reset();
    cpu.running_mean.reset();
    cpu.running_var.reset();
    expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));  // a counter and nothing to track
    cpu.counter.reset();
    expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
  }
}

TEST_P(BatchNormCuda, HalfInputsTakeFloatParameters) {
  Layer cpu = make_layer({4, 6, 5, 8}, at::kBFloat16);
  cpu.weight = cpu.weight->to(at::kFloat);
  cpu.running_var = cpu.running_var->to(at::kFloat);
  expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
}

TEST_P(BatchNormCuda, StridedRunningStatisticsAreUpdatedInPlace) {
  const Layer cpu = make_layer({4, 6, 5, 8}, at::kFloat);
  Layer cuda = cpu.to(at::kCUDA);
  const at::Tensor table = at::full({6, 3}, -7.f, cuda.input.options());
  table.select(1, 0).copy_(*cuda.running_mean);
  table.select(1, 2).copy_(*cuda.running_var);
  cuda.running_mean = table.select(1, 0);
  cuda.running_var = table.select(1, 2);
  cpu.train();
  cuda.train();
  EXPECT_TRUE(at::allclose(table.select(1, 0).cpu(), *cpu.running_mean));
  EXPECT_TRUE(at::allclose(table.select(1, 2).cpu(), *cpu.running_var));
  EXPECT_TRUE(table.select(1, 1).eq(-7).all().item<bool>());
}

TEST_P(BatchNormCuda, VarianceHoldsFarFromZero) {
  for (const bool channels_last : {false, true}) {
    Layer layer = make_layer({16, 8, 64, 64}, at::kFloat, channels_last);
    layer.input += 1e6;
    const at::Tensor expected =
        layer.input.to(at::kDouble).var(at::IntArrayRef({0, 2, 3}), false, false);
    const Results results = layer.to(at::kCUDA).train();
    const at::Tensor variance = std::get<2>(results).cpu().pow(-2) - 1e-5;
    EXPECT_LE(((variance - expected) / expected).abs().max().item<double>(), 2e-6);
  }
}

TEST_P(BatchNormCuda, ConstantChannelsBecomeTheirBias) {
  for (const bool channels_last : {false, true}) {
    Layer layer = make_layer({4, 8, 16, 16}, at::kFloat, channels_last);
    layer.input.fill_(3e35f);
    const Results results = layer.to(at::kCUDA).train();
    EXPECT_TRUE(at::equal(std::get<0>(results).cpu(),
                          layer.bias->view({1, 8, 1, 1}).expand({4, 8, 16, 16})));
  }
}

// Whatever the strides of input and gradient, each of its own.
TEST_P(BatchNormCuda, EqualsCpuForEveryPairOfStrides) {
  for (const at::ScalarType dtype : all_dtypes())
    for (const int64_t rank : {2, 3, 4, 5})
      for (const Memory input : all_memory())
        for (const Memory gradient : all_memory()) {
          SCOPED_TRACE(testing::Message() << name_of(dtype) << " of rank " << rank << ", input "
                                          << name_of(input) << ", gradient " << name_of(gradient));
          Layer cpu = make_layer(small_shape(rank), dtype);
          Layer cuda = cpu.to(at::kCUDA);
          for (Layer* layer : {&cpu, &cuda}) {
            layer->input = laid_out(layer->input, input);
            layer->grad_output = laid_out(layer->grad_output, gradient);
          }
          expect_equal_to_cpu(cpu, cuda);
        }
}

}  // namespace
}  // namespace torchbn::test
