// What only simulated GPUs show: whereto and how often the operators launch, and what they do when
// a launch is refused.

#include <ATen/ATen.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/variable.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/layer.h"
#include "cuda/simulated/runtime.h"
#include "torchbn/batch_norm.h"

namespace torchbn::test {
namespace {

using simulated::Launched;
using Shape = std::vector<int64_t>;

class SimulatedGpu : public testing::Test {
 protected:
  void SetUp() override { simulated::launched(); }
};

const Shape kSmall = {32, 64};
// Of which blocks hold channels only together.
const Shape kOfClusters = {16, 8, 64, 64};

at::Device device_of(int index) {
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

// Everything that is called with a layer.
void call_all(const Layer& layer) {
  const auto [y, mean, invstd] = layer.train();
  layer.backward(mean, invstd, true);
  const auto [z, running_mean, running_invstd] = layer.inference();
  layer.backward(running_mean, running_invstd, false);
}

TEST_F(SimulatedGpu, LaunchesOnTheDeviceOfTheTensorsAndItsCurrentStream) {
  for (const int device : {simulated::kFirstDevice, simulated::kSecondDevice})
    for (const std::string& name : all_kernels())
      for (const Shape& shape : {kSmall, kOfClusters}) {
        const Kernels kernels(name);
        const Layer layer = make_layer(shape, at::kFloat).to(device_of(device));
        const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, device);
        {
          const c10::cuda::CUDAMultiStreamGuard guard(stream);
          const c10::cuda::CUDAGuard other(static_cast<c10::DeviceIndex>(1 - device));
          call_all(layer);
          EXPECT_EQ(c10::cuda::current_device(), 1 - device);
        }
        const std::vector<Launched> launched = simulated::launched();
        EXPECT_GE(launched.size(), 4);
        for (const Launched& launch : launched) {
          EXPECT_EQ(launch.device, device) << name;
          EXPECT_EQ(launch.stream, stream.stream()) << name;
        }
      }
}

TEST_F(SimulatedGpu, GradientsAreQueuedWhereTheOutputWas) {
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool(false, 1);
  const at::Tensor input = at::randn({8, 6, 5, 5}).to(device_of(1)).requires_grad_();
  at::Tensor output;
  {
    const c10::cuda::CUDAStreamGuard guard(stream);
    output = torchbn::batch_norm(input, {}, {}, {}, {}, true);
  }
  torch::autograd::backward({output}, {at::ones_like(output)});
  const std::vector<Launched> launched = simulated::launched();
  EXPECT_GE(launched.size(), 2);
  for (const Launched& launch : launched) {
    EXPECT_EQ(launch.device, 1);
    EXPECT_EQ(launch.stream, stream.stream());
  }
  EXPECT_TRUE(input.grad().defined());
}

// One launch per direction, which updates statistics and counter as well, and nothing of torch's.
TEST_F(SimulatedGpu, SmallTensorsTakeOneLaunch) {
  for (const int device : {simulated::kFirstDevice, simulated::kSecondDevice})
    for (const Shape& shape : {kSmall, Shape{8, 7, 40, 40}, Shape{16, 16, 32, 32}, Shape{8, 7, 33}})
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        SCOPED_TRACE(testing::Message() << at::IntArrayRef(shape) << " " << c10::toString(dtype));
        const Layer layer = make_layer(shape, dtype).to(device_of(device));
        const int torch_calls = simulated::torch_calls();
        simulated::launched();
        const Results trained = layer.train();
        EXPECT_EQ(simulated::launched().size(), 1);
        layer.backward(std::get<1>(trained), std::get<2>(trained), true);
        EXPECT_EQ(simulated::launched().size(), 1);
        const Results evaluated = layer.inference();
        EXPECT_EQ(simulated::launched().size(), 1);
        for (const bool parameters : {true, false}) {
          layer.backward(std::get<1>(evaluated), std::get<2>(evaluated), false, true, parameters,
                         parameters);
          EXPECT_EQ(simulated::launched().size(), 1);
        }
        layer.backward(std::get<1>(trained), std::get<2>(trained), true, false);
        EXPECT_EQ(simulated::launched().size(), 1);
        EXPECT_EQ(simulated::torch_calls(), torch_calls);
      }
}

// The host computes nothing of what lies in a GPU's memory, and a kernel reaches only its own
// GPU's.
TEST_F(SimulatedGpu, NobodyButKernelsReachesMemory) {
  for (const int device : {simulated::kFirstDevice, simulated::kSecondDevice})
    for (const std::string& name : all_kernels())
      for (const at::ScalarType dtype : {at::kFloat, at::kHalf}) {
        const Kernels kernels(name);
        const Layer layer = make_layer({4, 6, 5, 8}, dtype).to(device_of(device));
        const simulated::Protection protection;
        call_all(layer);
        layer.train(std::nullopt);  // the momentum follows from the counter
      }
}

// For the time of a scope.
struct Refusal {
  Refusal(cudaError_t clusters, cudaError_t cooperative) {
    simulated::refuse_clusters(clusters);
    simulated::refuse_cooperative(cooperative);
  }
  ~Refusal() {
    simulated::refuse_clusters(cudaSuccess);
    simulated::refuse_cooperative(cudaSuccess);
  }
  Refusal(const Refusal&) = delete;
  Refusal& operator=(const Refusal&) = delete;
};

bool any_together(const std::vector<Launched>& launched) {
  for (const Launched& launch : launched)
    if (launch.cluster > 1 || launch.cooperative) return true;
  return false;
}

TEST_F(SimulatedGpu, SplitKernelsRunWhereOthersAreRefused) {
  const Layer before = make_layer(kOfClusters, at::kFloat).to(at::kCUDA);
  const auto run = [&](const char* kernels, bool together) {
    const Kernels choice(kernels);
    const Layer layer = before.to(at::kCUDA);
    const Results trained = layer.train(std::nullopt);
    EXPECT_EQ(any_together(simulated::launched()), together);
    const auto gradients = [&](bool training, bool of_input) {
      const Results results =
          layer.backward(std::get<1>(trained), std::get<2>(trained), training, of_input);
      EXPECT_EQ(any_together(simulated::launched()), together);
      return results;
    };
    return std::tuple(layer, trained, gradients(true, true), gradients(true, false),
                      gradients(false, true));
  };
  const auto [split, trained, gradients, of_parameters, of_evaluation] = run("split", false);
  run("auto", true);

  const Refusal refusal(cudaErrorInvalidClusterSize, cudaErrorCooperativeLaunchTooLarge);
  const auto [fallen_back, trained_so, gradients_so, of_parameters_so, of_evaluation_so] =
      run("auto", false);
  expect_same_bits(trained_so, trained);
  expect_same_bits(gradients_so, gradients);
  expect_same_bits(of_parameters_so, of_parameters);
  expect_same_bits(of_evaluation_so, of_evaluation);
  EXPECT_TRUE(at::equal(*fallen_back.running_mean, *split.running_mean));
  EXPECT_TRUE(at::equal(*fallen_back.running_var, *split.running_var));
  EXPECT_EQ(fallen_back.counter->item<int64_t>(), 1);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(SimulatedGpu, OtherErrorsOfALaunchAreRaised) {
  const auto expect_error = [](const char* kernels, const std::string& message) {
    const Kernels choice(kernels);
    const Layer layer = make_layer(kOfClusters, at::kFloat).to(at::kCUDA);
    const at::Tensor mean = layer.running_mean->clone();
    try {
      layer.train();
      ADD_FAILURE() << "no error";
    } catch (const c10::Error& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
    EXPECT_EQ(layer.counter->item<int64_t>(), 0);
    EXPECT_TRUE(at::equal(*layer.running_mean, mean));
  };
  {
    const Refusal refusal(cudaErrorLaunchOutOfResources, cudaErrorLaunchOutOfResources);
    expect_error("auto", "too many resources requested for launch");
  }
  // Who asks for kernels is told that they can't run.
  const Refusal refusal(cudaErrorInvalidClusterSize, cudaErrorCooperativeLaunchTooLarge);
  expect_error("resident", "cluster");
  expect_error("cooperative", "cooperative");
}

// What is known of one device is not taken for another one's.
TEST_F(SimulatedGpu, DevicesAreToldApart) {
  const Kernels kernels("resident");
  for (const int device : {0, 1, 0, 1}) {
    make_layer(kOfClusters, at::kFloat).to(device_of(device)).train();
    bool clusters = false;
    for (const Launched& launch : simulated::launched())
      clusters = clusters || (launch.cluster > 1 && !launch.cooperative);
    EXPECT_EQ(clusters, device == simulated::kFirstDevice);
  }
}

}  // namespace
}  // namespace torchbn::test
