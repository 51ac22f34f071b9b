// The same bits from run to run, wherever the tensors lie, and from a CUDA graph.

#include <cstdint>
#include <vector>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <gtest/gtest.h>

#include "cuda/layer.h"
#include "support/cases.h"

namespace torchbn::test {
namespace {

// Large enough for many parts per channel and for clusters, whose merging must not depend on which
// is ready first.
TEST_P(BatchNormCuda, RunsAgreeBitForBit) {
  if (is_simulated()) GTEST_SKIP() << "a simulated GPU has only one order";
  for (const bool channels_last : {false, true})
    for (const at::ScalarType dtype : all_dtypes())
      for (const std::vector<int64_t>& shape :
           {std::vector<int64_t>{20, 6, 128, 128}, std::vector<int64_t>{32, 130, 14, 14},
            std::vector<int64_t>{64, 512, 7, 7}, std::vector<int64_t>{32, 256, 28, 28}}) {
        const Layer layer = make_layer(shape, dtype, channels_last).to(at::kCUDA);
        const auto mean = layer.running_mean->clone(), var = layer.running_var->clone();
        const Results first = layer.train();
        const auto mean_after = layer.running_mean->clone(), var_after = layer.running_var->clone();
        const auto gradients = [&](bool training) {
          return layer.backward(std::get<1>(first), std::get<2>(first), training);
        };
        const Results of_training = gradients(true), of_evaluation = gradients(false);
        for (int run = 0; run < 5; ++run) {
          layer.running_mean->copy_(mean);
          layer.running_var->copy_(var);
          expect_same_bits(layer.train(), first);
          EXPECT_TRUE(at::equal(*layer.running_mean, mean_after));
          EXPECT_TRUE(at::equal(*layer.running_var, var_after));
          expect_same_bits(gradients(true), of_training);
          expect_same_bits(gradients(false), of_evaluation);
        }
      }
}

// The same values at an address that is no multiple of a vector give the same bits.
TEST_P(BatchNormCuda, MisalignedSlicesAgreeBitForBit) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{4, 6, 32, 32}, std::vector<int64_t>{301, 7},
          std::vector<int64_t>{5, 1600, 7, 7}}) {
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

// Eager calls and replays of a captured graph, training and evaluation, give the same bits; nothing
// runs while it is captured.
TEST_P(BatchNormCuda, GraphReplaysAdvanceTheCounter) {
  for (const bool channels_last : {false, true})
    for (const at::ScalarType dtype : all_dtypes()) {
      SCOPED_TRACE(testing::Message() << name_of(dtype) << channels_last);
      const Layer layer = make_layer({8, 6, 32, 32}, dtype, channels_last).to(at::kCUDA);
      const Layer eager = layer.to(at::kCUDA);
      c10::cuda::getDefaultCUDAStream().synchronize();
      const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
      layer.train(std::nullopt);  // before a capture: modules are loaded, memory is there
      layer.running_mean->copy_(*eager.running_mean);
      layer.running_var->copy_(*eager.running_var);
      layer.counter->zero_();

      const auto step = [](const Layer& of) {
        std::vector<Results> results;
        results.push_back(of.train(std::nullopt));
        results.push_back(of.backward(std::get<1>(results[0]), std::get<2>(results[0]), true));
        results.push_back(of.inference());
        results.push_back(of.backward(std::get<1>(results[2]), std::get<2>(results[2]), false));
        return results;
      };
      at::cuda::CUDAGraph graph;
      graph.capture_begin();
      const std::vector<Results> captured = step(layer);
      graph.capture_end();
      EXPECT_EQ(layer.counter->item<int64_t>(), 0);
      for (int replay = 1; replay <= 3; ++replay) {
        layer.input.mul_(1.5);
        eager.input.mul_(1.5);
        graph.replay();
        const std::vector<Results> expected = step(eager);
        for (size_t i = 0; i < expected.size(); ++i) expect_same_bits(captured[i], expected[i]);
        EXPECT_EQ(layer.counter->item<int64_t>(), replay);
        EXPECT_TRUE(at::equal(*layer.running_mean, *eager.running_mean));
        EXPECT_TRUE(at::equal(*layer.running_var, *eager.running_var));
      }
    }
}

}  // namespace
}  // namespace torchbn::test
