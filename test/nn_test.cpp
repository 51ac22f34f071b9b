// The modules of torchbn::nn against those of torch::nn.

#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/serialize.h>
#include <torchbn/nn.h>

namespace torchbn::test {
namespace {

using torch::nn::BatchNormOptions;

template <typename O, typename T>
struct Pair {
  using Ours = O;
  using Theirs = T;
};
using Pairs = testing::Types<Pair<nn::BatchNorm1d, torch::nn::BatchNorm1d>,
                             Pair<nn::BatchNorm2d, torch::nn::BatchNorm2d>,
                             Pair<nn::BatchNorm3d, torch::nn::BatchNorm3d>>;

template <typename P>
class NnTest : public testing::Test {
 protected:
  using Ours = typename P::Ours;
  using Theirs = typename P::Theirs;

  static constexpr int64_t kChannels = 3;

  // Of a rank that the modules take, the largest.
  static at::Tensor input() {
    std::vector<int64_t> shape = {4, kChannels};
    for (size_t d = 0; d < rank() - 2; ++d) shape.push_back(3);
    return at::randn(shape) * 2 + 1;
  }
  static size_t rank() {
    if (std::is_same_v<Theirs, torch::nn::BatchNorm1d>) return 3;
    return std::is_same_v<Theirs, torch::nn::BatchNorm2d> ? 4 : 5;
  }
};
TYPED_TEST_SUITE(NnTest, Pairs);

void expect_same(const at::Tensor& ours, const at::Tensor& theirs) {
  ASSERT_EQ(ours.defined(), theirs.defined());
  if (ours.defined()) {
    EXPECT_TRUE(at::allclose(ours, theirs, 1e-5, 1e-5));
  }
}

template <typename Ours, typename Theirs>
void expect_same_state(const Ours& ours, const Theirs& theirs) {
  expect_same(ours->weight, theirs->weight);
  expect_same(ours->bias, theirs->bias);
  expect_same(ours->running_mean, theirs->running_mean);
  expect_same(ours->running_var, theirs->running_var);
  expect_same(ours->num_batches_tracked, theirs->num_batches_tracked);
}

TYPED_TEST(NnTest, TrainsAndEvaluatesAsTorchsModule) {
  for (const auto& options :
       {BatchNormOptions(3), BatchNormOptions(3).affine(false),
        BatchNormOptions(3).momentum(std::nullopt), BatchNormOptions(3).momentum(0.4).eps(0.1),
        BatchNormOptions(3).track_running_stats(false)}) {
    typename TestFixture::Ours ours(options);
    typename TestFixture::Theirs theirs(options);
    for (const bool training : {true, true, false, true, false}) {
      ours->train(training);
      theirs->train(training);
      const at::Tensor x = TestFixture::input();
      expect_same(ours(x), theirs(x));
      expect_same_state(ours, theirs);
    }
  }
}

TYPED_TEST(NnTest, TakesTheSameRanks) {
  typename TestFixture::Ours ours(3);
  typename TestFixture::Theirs theirs(3);
  for (int64_t rank = 2; rank <= 6; ++rank) {
    std::vector<int64_t> shape(rank, 3);
    const at::Tensor x = at::randn(shape);
    bool takes = true;
    try {
      theirs(x);
    } catch (const c10::Error&) {
      takes = false;
    }
    if (takes) {
      ours(x);
    } else {
      EXPECT_THROW(ours(x), c10::Error) << rank;
    }
    expect_same_state(ours, theirs);
  }
}

TYPED_TEST(NnTest, LoadsWhatTorchsModuleHasSaved) {
  typename TestFixture::Theirs theirs(3);
  theirs(TestFixture::input());
  std::stringstream file;
  torch::save(theirs, file);
  typename TestFixture::Ours ours(3);
  torch::load(ours, file);
  expect_same_state(ours, theirs);
  EXPECT_EQ(ours->num_batches_tracked.template item<int64_t>(), 1);
}

TYPED_TEST(NnTest, PrintsAsTorchsModule) {
  std::ostringstream ours, theirs;
  ours << typename TestFixture::Ours(BatchNormOptions(3).momentum(std::nullopt));
  theirs << typename TestFixture::Theirs(BatchNormOptions(3).momentum(std::nullopt));
  EXPECT_EQ(ours.str(), "torchbn" + theirs.str().substr(std::string("torch").size()));
}

TYPED_TEST(NnTest, ACloneIsOneOfOurs) {
  typename TestFixture::Ours ours(3);
  ours(TestFixture::input());
  const auto clone = std::dynamic_pointer_cast<typename TestFixture::Ours::Impl>(ours->clone());
  ASSERT_NE(clone, nullptr);
  expect_same_state(clone, ours);
  clone->forward(TestFixture::input());
  EXPECT_EQ(ours->num_batches_tracked.template item<int64_t>(), 1);
}

// torch::nn::Module::to casts all buffers.
TYPED_TEST(NnTest, ConvertsAllButTheCounter) {
  for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16, at::kFloat}) {
    for (const bool with_device : {false, true}) {
      typename TestFixture::Ours ours(3);
      ours->num_batches_tracked.fill_(3001);
      torch::nn::Sequential net(ours);
      if (with_device)
        net->to(at::kCPU, dtype);
      else
        net->to(dtype);
      net->forward(TestFixture::input().to(dtype));
      for (const at::Tensor& tensor : {ours->weight, ours->bias, ours->running_mean})
        EXPECT_EQ(tensor.scalar_type(), dtype);
      const at::Tensor counter = ours->named_buffers()["num_batches_tracked"];
      EXPECT_EQ(counter.scalar_type(), at::kLong);
      EXPECT_EQ(counter.template item<int64_t>(), 3002);
      EXPECT_TRUE(counter.is_same(ours->num_batches_tracked));
    }
  }
  typename TestFixture::Ours untracked(BatchNormOptions(3).track_running_stats(false));
  untracked->to(at::kDouble);
  untracked->to(at::kCPU);
  untracked(TestFixture::input().to(at::kDouble));
}

TYPED_TEST(NnTest, AModuleThatStopsTrackingLeavesItsBuffers) {
  typename TestFixture::Ours ours(3);
  ours->options.track_running_stats(false);
  const at::Tensor x = TestFixture::input();
  for (const auto& momentum : {std::optional<double>(), std::optional<double>(0.1)}) {
    ours->options.momentum(momentum);
    for (const bool training : {true, false}) {
      ours->train(training);
      expect_same(ours(x), typename TestFixture::Theirs(3)(x));
    }
  }
  expect_same_state(ours, typename TestFixture::Theirs(3));
}

TYPED_TEST(NnTest, IsALayerOfASequence) {
  torch::nn::Sequential net(typename TestFixture::Ours(3));
  const at::Tensor x = TestFixture::input();
  expect_same(net->forward(x), typename TestFixture::Theirs(3)(x));
}

}  // namespace
}  // namespace torchbn::test
