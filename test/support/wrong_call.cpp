#include "support/wrong_call.h"

#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include "support/compare.h"

namespace torchbn::test {

const std::vector<Place>& all_places() {
  static const std::vector<Place> all = {{"Cpu", at::Device(at::kCPU), false},
                                         {"CpuInferenceMode", at::Device(at::kCPU), true},
                                         {"Meta", at::Device(at::kMeta), false},
                                         {"MetaInferenceMode", at::Device(at::kMeta), true},
                                         {"Cuda", at::Device(at::kCUDA, 0), false},
                                         {"CudaInferenceMode", at::Device(at::kCUDA, 0), true}};
  return all;
}

Arguments valid_call(at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  Arguments a;
  a.input = at::ones({4, 3, 5}, options);
  a.weight = at::ones({3}, options);
  a.bias = at::zeros({3}, options);
  a.running_mean = at::full({3}, 0.25, options);
  a.running_var = at::full({3}, 0.5, options);
  a.num_batches_tracked = at::full({}, 7, options.dtype(at::kLong));
  return a;
}

at::Tensor elsewhere(const at::Tensor& tensor) {
  return at::empty_like(tensor, tensor.options().device(tensor.is_cpu() ? at::kMeta : at::kCPU));
}

void expect_error(const std::vector<std::string>& words, const std::function<void()>& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    for (const std::string& word : words)
      EXPECT_NE(text.find(word), std::string::npos) << '"' << word << "\" is missing in: " << text;
    return;
  }
  ADD_FAILURE() << "no error was raised";
}

Snapshot::Snapshot(const at::Tensor& tensor) : tensor_(tensor) {
  if (!tensor.defined()) return;
  if (!tensor.is_inference()) version_ = tensor._version();
  if (!tensor.is_meta()) values_ = tensor.detach().clone();
}

void Snapshot::expect_unchanged(const char* name) const {
  if (!tensor_.defined()) return;
  if (!tensor_.is_inference()) {
    EXPECT_EQ(tensor_._version(), version_) << name;
  }
  if (values_.defined()) {
    EXPECT_TRUE(is_identical(tensor_.detach(), values_)) << name;
  }
}

}  // namespace torchbn::test
