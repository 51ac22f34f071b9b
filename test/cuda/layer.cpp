#include "cuda/layer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include <ATen/cuda/CUDAContextLight.h>
#include <torch/cuda.h>

#include "operators.h"

namespace torchbn::test {

namespace {

double largest(const at::Tensor& tensor) {
  return tensor.to(at::kDouble).abs().max().item<double>();
}

// Values of a half type may be rounded to neighbours, which are this far from each other where the
// largest of them are.
double rounding(at::ScalarType dtype, double size) {
  if (!c10::isReducedFloatingType(dtype) || size == 0) return 0;
  return std::ldexp(dtype == at::kHalf ? 0x1p-10 : 0x1p-7, std::ilogb(size));
}

// Relative to the largest expected value or, where that is what is left of larger terms, to
// `scale`.
void expect_close(const at::Tensor& cuda, const at::Tensor& cpu, double tolerance,
                  const std::string& what, double scale = 1) {
  ASSERT_EQ(cuda.sizes(), cpu.sizes()) << what;
  ASSERT_EQ(cuda.strides(), cpu.strides()) << what;
  ASSERT_EQ(cuda.scalar_type(), cpu.scalar_type()) << what;
  if (cpu.numel() == 0) return;
  // Where comparing takes less time.
  const at::Tensor expected = cpu.to(cuda.device()).to(at::kDouble);
  const at::Tensor actual = cuda.to(at::kDouble);
  // Sums may be infinite in a half type.
  const double worst = largest(at::where(actual == expected, 0.0, actual - expected));
  const double terms = largest(at::where(at::isfinite(expected), expected, 0.0));
  EXPECT_LE(worst, std::max(tolerance * (scale + terms), rounding(cpu.scalar_type(), terms)))
      << what;
}

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

}  // namespace

Layer Layer::to(at::Device device) const {
  const auto copy = [&](const at::Tensor& tensor) {
    return tensor.to(device, /*non_blocking=*/false, /*copy=*/true);
  };
  const auto copy_if = [&](const OptionalTensor& tensor) {
    return tensor ? OptionalTensor(copy(*tensor)) : std::nullopt;
  };
  return {copy(input),           copy(grad_output),    copy_if(weight), copy_if(bias),
          copy_if(running_mean), copy_if(running_var), copy_if(counter)};
}

Results Layer::train(std::optional<double> momentum) const {
  return ops::batch_norm_train(input, weight, bias, running_mean, running_var, counter, momentum,
                               1e-5);
}

Results Layer::inference() const {
  return ops::batch_norm_inference(input, weight, bias, *running_mean, *running_var, 1e-5);
}

Results Layer::backward(const at::Tensor& mean, const at::Tensor& invstd, bool training,
                        bool need_input, bool need_weight, bool need_bias) const {
  const OptionalTensor data = training || need_weight ? OptionalTensor(input) : std::nullopt;
  return ops::batch_norm_backward(grad_output, data, weight, mean, invstd, training, need_input,
                                  need_weight, need_bias);
}

at::Tensor values(at::IntArrayRef shape, at::ScalarType dtype) {
  // On the GPU, where they take no time; then to the CPU.
  const auto options = at::TensorOptions().dtype(at::kFloat).device(at::kCUDA);
  return (at::randn(shape, options) + 3).to(dtype).cpu();
}

Layer make_layer(at::IntArrayRef shape, at::ScalarType dtype, bool channels_last) {
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

void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_TRUE(at::equal(std::get<0>(a), std::get<0>(b)));
  EXPECT_TRUE(at::equal(std::get<1>(a), std::get<1>(b)));
  EXPECT_TRUE(at::equal(std::get<2>(a), std::get<2>(b)));
}

void expect_equal_to_cpu(const Layer& cpu, const Layer& cuda) {
  const at::ScalarType dtype = cpu.input.scalar_type();
  const double close = tolerance(dtype);
  // Statistics are kept in double whatever the dtype.
  const double statistics = dtype == at::kDouble ? 1e-12 : 1e-6;
  // Float sums of chunks lose up to a chunk's length of units in the last place.
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

    // Both from the same statistics: a mean that is off by e moves sum(dy * xhat) by e * sum(dy).
    const bool weighs = cpu.weight.has_value();
    const auto [dx, dweight, dbias] = cpu.backward(mean, invstd, true, true, weighs, true);
    const auto [cuda_dx, cuda_dweight, cuda_dbias] = cuda.backward(
        mean.to(cuda.input.device()), invstd.to(cuda.input.device()), true, true, weighs, true);
    // dx is a difference of terms of the size of weight * invstd * dy.
    const double terms =
        largest(invstd) * largest(cpu.grad_output) * (cpu.weight ? largest(*cpu.weight) : 1);
    expect_close(cuda_dx, dx, close, "grad_input", terms);
    expect_close(cuda_dweight, dweight, sums, "grad_weight");
    expect_close(cuda_dbias, dbias, sums, "grad_bias");
    if (!cpu.counter) break;
  }
  if (!cpu.running_mean) return;
  // Here too.
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

bool is_simulated() {
  return std::string_view(at::cuda::getCurrentDeviceProperties()->name).rfind("simulated", 0) == 0;
}

bool takes_too_long(at::IntArrayRef shape) {
  return is_simulated() && (c10::multiply_integers(shape) > 200000 || shape[1] > 1000);
}

Kernels::Kernels(const std::string& name) {
  if (const char* const before = std::getenv(kVariable)) before_ = before;
  setenv(kVariable, name.c_str(), 1);
}

Kernels::~Kernels() {
  if (before_)
    setenv(kVariable, before_->c_str(), 1);
  else
    unsetenv(kVariable);
}

INSTANTIATE_TEST_SUITE_P(, BatchNormCuda, testing::ValuesIn(all_kernels()),
                         [](const auto& kernels) { return kernels.param; });

void BatchNormCuda::SetUp() {
  if (!at::hasCUDA() || torch::cuda::device_count() == 0) GTEST_SKIP() << "needs a CUDA GPU";
  at::manual_seed(0);
  kernels_.emplace(GetParam());
}

}  // namespace torchbn::test
