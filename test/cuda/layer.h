#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

// What the tests of the CUDA kernels share: calls of the internal operators, and comparing them
// with the CPU's.
namespace torchbn::test {

using Results = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using OptionalTensor = std::optional<at::Tensor>;

// The tensors of a layer on one device; `to` copies all of them.
struct Layer {
  at::Tensor input;
  at::Tensor grad_output;
  OptionalTensor weight, bias, running_mean, running_var, counter;

  Layer to(at::Device device) const;
  Results train(std::optional<double> momentum = 0.1) const;
  Results inference() const;
  Results backward(const at::Tensor& mean, const at::Tensor& invstd, bool training,
                   bool need_input = true, bool need_weight = true, bool need_bias = true) const;
};

// Random values about 3, on the CPU.
at::Tensor values(at::IntArrayRef shape, at::ScalarType dtype);
Layer make_layer(at::IntArrayRef shape, at::ScalarType dtype, bool channels_last = false);

// Everything that training and evaluation give, forward and backward. The buffers of both layers
// are updated.
void expect_equal_to_cpu(const Layer& cpu, const Layer& cuda);
void expect_same_bits(const Results& a, const Results& b);

// Whether the GPU is simulated (cuda/simulated/runtime.h), and takes seconds for a shape.
bool is_simulated();
bool takes_too_long(at::IntArrayRef shape);

// Has the CUDA kernels of that name called, where they accept the shape, for the time of a scope.
class Kernels {
 public:
  explicit Kernels(const std::string& name);
  ~Kernels();
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

 private:
  static constexpr const char* kVariable = "TORCHBN_CUDA_KERNEL";
  std::optional<std::string> before_;
};

inline const std::vector<std::string>& all_kernels() {
  static const std::vector<std::string> names = {"split", "resident", "cooperative"};
  return names;
}

// Every test runs with all kernels.
class BatchNormCuda : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override;

 private:
  std::optional<Kernels> kernels_;
};

}  // namespace torchbn::test
