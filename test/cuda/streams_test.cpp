// Work is queued on the current stream of the tensors' device.

#include <future>
#include <vector>

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include "cuda/layer.h"

namespace torchbn::test {
namespace {

TEST_P(BatchNormCuda, ThreadsWorkOnStreamsOfTheirOwn) {
  const Layer cpu = make_layer({is_simulated() ? 1 : 32, 64, 56, 56}, at::kFloat);
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

TEST_P(BatchNormCuda, TheDeviceIsTheTensorsOwn) {
  if (torch::cuda::device_count() < 2) GTEST_SKIP() << "needs two CUDA GPUs";
  const Layer cpu = make_layer({8, 6, 32, 32}, at::kFloat);
  expect_equal_to_cpu(cpu, cpu.to(at::Device(at::kCUDA, 1)));
  EXPECT_EQ(c10::cuda::current_device(), 0);
}

}  // namespace
}  // namespace torchbn::test
