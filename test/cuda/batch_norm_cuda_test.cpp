// The CUDA kernels against the CPU ones through the internal operators. Skipped without a GPU.

#include <cmath>
#include <cstdint>
#include <future>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

namespace torchbn {
namespace {

using Results = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

template <typename Signature>
const c10::TypedOperatorHandle<Signature>& find(const char* name) {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
  return handle;
}

// The tensors of a layer on one device.
struct Layer {
  at::Tensor input;
  at::Tensor grad_output;
  OptionalTensor weight, bias, running_mean, running_var, counter;

  Layer to(at::Device device) const {
    const auto move = [&](const OptionalTensor& tensor) {
      return tensor ? OptionalTensor(tensor->to(device, false, true)) : std::nullopt;
    };
    return {input.to(device),   grad_output.to(device), move(weight), move(bias),
            move(running_mean), move(running_var),      move(counter)};
  }

  Results train(std::optional<double> momentum = 0.1) const {
    using Signature = Results(const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const OptionalTensor&, const OptionalTensor&, const OptionalTensor&,
                              std::optional<double>, double);
    return find<Signature>("torchbn::batch_norm_train")
        .call(input, weight, bias, running_mean, running_var, counter, momentum, 1e-5);
  }
  Results inference() const {
    using Signature = Results(const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const at::Tensor&, const at::Tensor&, double);
    return find<Signature>("torchbn::batch_norm_inference")
        .call(input, weight, bias, *running_mean, *running_var, 1e-5);
  }
  Results backward(const at::Tensor& mean, const at::Tensor& invstd, bool training,
                   bool need_input = true, bool need_weight = true, bool need_bias = true) const {
    using Signature = Results(const at::Tensor&, const OptionalTensor&, const OptionalTensor&,
                              const at::Tensor&, const at::Tensor&, bool, bool, bool, bool);
    const OptionalTensor data = training || need_weight ? OptionalTensor(input) : std::nullopt;
    return find<Signature>("torchbn::batch_norm_backward")
        .call(grad_output, data, weight, mean, invstd, training, need_input, need_weight,
              need_bias);
  }
};

at::Tensor values(at::IntArrayRef shape, at::ScalarType dtype) {
  return (at::randn(shape, at::kFloat) + 3).to(dtype);
}

Layer make_layer(at::IntArrayRef shape, at::ScalarType dtype, bool channels_last = false) {
  Layer layer;
  layer.input = values(shape, dtype);
  layer.grad_output = values(shape, dtype);
  if (channels_last) {
    const auto format =
        shape.size() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
    layer.input = layer.input.contiguous(format);
    layer.grad_output = layer.grad_output.contiguous(format);
  }
  layer.weight = values({shape[1]}, dtype);
  layer.bias = values({shape[1]}, dtype);
  layer.running_mean = values({shape[1]}, dtype);
  layer.running_var = values({shape[1]}, dtype).abs();
  layer.counter = at::zeros({}, at::kLong);
  return layer;
}

double largest(const at::Tensor& tensor) {
  return tensor.to(at::kDouble).abs().max().item<double>();
}

// Relative to the largest expected value or, where that is what is left of larger terms, to
// `scale`.
void expect_close(const at::Tensor& cuda, const at::Tensor& cpu, double tolerance,
                  const std::string& what, double scale = 1) {
  ASSERT_EQ(cuda.sizes(), cpu.sizes()) << what;
  ASSERT_EQ(cuda.strides(), cpu.strides()) << what;
  ASSERT_EQ(cuda.scalar_type(), cpu.scalar_type()) << what;
  if (cpu.numel() == 0) return;
  const at::Tensor expected = cpu.to(at::kDouble);
  const double worst = largest(cuda.cpu().to(at::kDouble) - expected);
  EXPECT_LE(worst, tolerance * (scale + largest(expected))) << what;
}

void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_TRUE(at::equal(std::get<0>(a), std::get<0>(b)));
  EXPECT_TRUE(at::equal(std::get<1>(a), std::get<1>(b)));
  EXPECT_TRUE(at::equal(std::get<2>(a), std::get<2>(b)));
}

// One unit in the last place, at most: where the two round to different neighbours.
double tolerance(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return 0x1p-8;
    case at::kHalf:
      return 0x1p-11;
    case at::kFloat:
      return 2e-6;
    default:
      return 1e-12;
  }
}

void expect_equal_to_cpu(const Layer& cpu, const Layer& cuda) {
  const at::ScalarType dtype = cpu.input.scalar_type();
  const double close = tolerance(dtype);
  // Statistics are kept in double whatever the dtype.
  const double statistics = dtype == at::kDouble ? 1e-12 : 1e-6;
  // Float sums of packets lose up to a packet's length of units in the last place.
  const double sums = std::max(close, dtype == at::kDouble ? 1e-11 : 1e-5);
  for (const std::optional<double> momentum : {std::optional<double>(0.1), {}}) {
    const auto [y, mean, invstd] = cpu.train(momentum);
    const auto [cuda_y, cuda_mean, cuda_invstd] = cuda.train(momentum);
    expect_close(cuda_y, y, close, "output");
    expect_close(cuda_mean, mean, statistics, "save_mean");
    expect_close(cuda_invstd, invstd, statistics, "save_invstd");
    if (cpu.running_mean) {
      expect_close(*cuda.running_mean, *cpu.running_mean, close, "running_mean");
      expect_close(*cuda.running_var, *cpu.running_var, close, "running_var");
    }
    if (cpu.counter) {
      EXPECT_EQ(cuda.counter->item<int64_t>(), cpu.counter->item<int64_t>());
    }

    const auto [dx, dweight, dbias] = cpu.backward(mean, invstd, true);
    const auto [cuda_dx, cuda_dweight, cuda_dbias] = cuda.backward(cuda_mean, cuda_invstd, true);
    // dx is a difference of terms of the size of weight * invstd * dy.
    const double terms =
        largest(invstd) * largest(cpu.grad_output) * (cpu.weight ? largest(*cpu.weight) : 1);
    expect_close(cuda_dx, dx, close, "grad_input", terms);
    expect_close(cuda_dweight, dweight, sums, "grad_weight");
    expect_close(cuda_dbias, dbias, sums, "grad_bias");
    if (!cpu.counter) break;
  }
  if (!cpu.running_mean) return;
  // Both from the same statistics.
  cuda.running_mean->copy_(*cpu.running_mean);
  cuda.running_var->copy_(*cpu.running_var);
  const auto [y, mean, invstd] = cpu.inference();
  const auto [cuda_y, cuda_mean, cuda_invstd] = cuda.inference();
  expect_close(cuda_y, y, close, "evaluation output");
  expect_close(cuda_mean, mean, 0, "evaluation save_mean");
  expect_close(cuda_invstd, invstd, 1e-15, "evaluation save_invstd");
  for (const bool need_input : {true, false})
    for (const bool need_weight : {true, false}) {
      const auto [dx, dweight, dbias] =
          cpu.backward(mean, invstd, false, need_input, need_weight, !need_input);
      const auto [cuda_dx, cuda_dweight, cuda_dbias] =
          cuda.backward(cuda_mean, cuda_invstd, false, need_input, need_weight, !need_input);
      expect_close(cuda_dx, dx, close, "evaluation grad_input");
      expect_close(cuda_dweight, dweight, sums, "evaluation grad_weight");
      expect_close(cuda_dbias, dbias, sums, "evaluation grad_bias");
    }
}

class BatchNormCuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA() || torch::cuda::device_count() == 0) GTEST_SKIP() << "needs a CUDA GPU";
    at::manual_seed(0);
  }
};

// Vector widths and tails, small planes, odd and large channel counts, splits.
const std::vector<std::vector<int64_t>> kShapes = {
    {2, 1},          {2, 3},           {33, 7},          {32, 64},         {1001, 65},
    {5, 1001},       {4000, 6},        {2, 3, 1},        {2, 3, 2},        {3, 5, 7},
    {4, 6, 4099},    {2, 3, 7, 7},     {16, 64, 14, 14}, {32, 33, 7, 7},   {3, 7, 8, 8},
    {8, 3, 128, 96}, {20, 6, 64, 256}, {1, 1, 300, 301}, {2, 4, 3, 5, 7},  {2, 600, 2, 3, 3},
    {2, 8, 4, 8, 8}, {3, 2048, 3, 3},  {64, 1, 56, 56},  {2, 70000, 1, 2},
};

TEST_F(BatchNormCuda, EqualsCpuForEveryDtypeShapeAndLayout) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
    for (const std::vector<int64_t>& shape : kShapes)
      for (const bool channels_last : {false, true}) {
        if (channels_last && shape.size() < 4) continue;
        SCOPED_TRACE(testing::Message() << c10::toString(dtype) << " " << at::IntArrayRef(shape)
                                        << (channels_last ? " channels-last" : ""));
        const Layer cpu = make_layer(shape, dtype, channels_last);
        expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
      }
}

TEST_F(BatchNormCuda, OptionalArgumentsMayBeAbsent) {
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

TEST_F(BatchNormCuda, HalfInputsTakeFloatParameters) {
  Layer cpu = make_layer({4, 6, 5, 8}, at::kBFloat16);
  cpu.weight = cpu.weight->to(at::kFloat);
  cpu.running_var = cpu.running_var->to(at::kFloat);
  expect_equal_to_cpu(cpu, cpu.to(at::kCUDA));
}

TEST_F(BatchNormCuda, StridedRunningStatisticsAreUpdatedInPlace) {
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

TEST_F(BatchNormCuda, RunsAgreeBitForBit) {
  for (const bool channels_last : {false, true})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const Layer layer = make_layer({20, 6, 128, 128}, dtype, channels_last).to(at::kCUDA);
      const Results first = layer.train();
      const Results first_gradients = layer.backward(std::get<1>(first), std::get<2>(first), true);
      for (int run = 0; run < 5; ++run) {
        const Results again = layer.train();
        expect_same_bits(again, first);
        expect_same_bits(layer.backward(std::get<1>(again), std::get<2>(again), true),
                         first_gradients);
      }
    }
}

// The same values at an address that is no multiple of a vector give the same bits.
TEST_F(BatchNormCuda, MisalignedSlicesAgreeBitForBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{4, 6, 32, 32}, std::vector<int64_t>{301, 7}}) {
      const Layer layer = make_layer(shape, dtype).to(at::kCUDA);
      const auto shift = [&](const at::Tensor& tensor) {
        at::Tensor buffer = at::empty({tensor.numel() + 1}, tensor.options());
        return buffer.narrow(0, 1, tensor.numel()).view(shape).copy_(tensor);
      };
      Layer shifted = layer;
      shifted.input = shift(layer.input);
      shifted.grad_output = shift(layer.grad_output);
      const Results results = layer.train();
      expect_same_bits(shifted.train(), results);
      expect_same_bits(shifted.backward(std::get<1>(results), std::get<2>(results), true),
                       layer.backward(std::get<1>(results), std::get<2>(results), true));
    }
}

TEST_F(BatchNormCuda, VarianceHoldsFarFromZero) {
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

TEST_F(BatchNormCuda, ConstantChannelsBecomeTheirBias) {
  for (const bool channels_last : {false, true}) {
    Layer layer = make_layer({4, 8, 16, 16}, at::kFloat, channels_last);
    layer.input.fill_(3e35f);
    const Results results = layer.to(at::kCUDA).train();
    EXPECT_TRUE(at::equal(std::get<0>(results).cpu(),
                          layer.bias->view({1, 8, 1, 1}).expand({4, 8, 16, 16})));
  }
}

TEST_F(BatchNormCuda, GraphReplaysAdvanceTheCounter) {
  const Layer layer = make_layer({8, 6, 32, 32}, at::kFloat).to(at::kCUDA);
  const Layer eager = layer.to(at::kCUDA);
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  const c10::cuda::CUDAStreamGuard guard(stream);
  layer.running_mean->copy_(*eager.running_mean);  // on this stream, before the capture
  at::cuda::CUDAGraph graph;
  graph.capture_begin();
  const Results captured = layer.train(std::nullopt);
  const Results gradients = layer.backward(std::get<1>(captured), std::get<2>(captured), true);
  graph.capture_end();
  for (int replay = 1; replay <= 3; ++replay) {
    layer.input.mul_(1.5);
    eager.input.mul_(1.5);
    graph.replay();
    const Results expected = eager.train(std::nullopt);
    expect_same_bits(captured, expected);
    expect_same_bits(gradients, eager.backward(std::get<1>(expected), std::get<2>(expected), true));
    EXPECT_EQ(layer.counter->item<int64_t>(), replay);
    EXPECT_TRUE(at::equal(*layer.running_mean, *eager.running_mean));
    EXPECT_TRUE(at::equal(*layer.running_var, *eager.running_var));
  }
}

TEST_F(BatchNormCuda, SideStreamsOrderTheirOwnWork) {
  const Layer cpu = make_layer({32, 64, 56, 56}, at::kFloat);
  const Results expected = cpu.to(at::kCUDA).train();
  c10::cuda::getCurrentCUDAStream().synchronize();
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  // The copy to the device is still under way when the operator is called.
  expect_same_bits(cpu.to(at::kCUDA).train(), expected);
}

TEST_F(BatchNormCuda, ThreadsWorkOnStreamsOfTheirOwn) {
  const Layer cpu = make_layer({32, 64, 56, 56}, at::kFloat);
  const Results expected = cpu.to(at::kCUDA).train();
  c10::cuda::getCurrentCUDAStream().synchronize();
  std::vector<std::future<Results>> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.push_back(std::async(std::launch::async, [&] {
      const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
      const c10::cuda::CUDAStreamGuard guard(stream);
      const Layer layer = cpu.to(at::kCUDA);
      for (int step = 0; step < 8; ++step) layer.train();
      const Results results = layer.train();
      stream.synchronize();
      return results;
    }));
  }
  for (std::future<Results>& caller : callers) expect_same_bits(caller.get(), expected);
}

// More than 2^31 values: needs some 13 GB.
TEST_F(BatchNormCuda, OffsetsGoBeyond32Bits) {
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
}  // namespace torchbn
