#pragma once

#include <ostream>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace torchbn::test {

// Test suites that call operators run once per device: Cpu/... and, where there is one, Cuda/...
std::vector<at::Device> devices();
std::string name_of(at::Device device);

// Skips, with a word, what needs a GPU where there is none.
#define TORCHBN_SKIP_WITHOUT(device)                                         \
  if ((device).is_cuda() && !::torchbn::test::has_gpu()) {                   \
    GTEST_SKIP() << "needs a CUDA device and a torch that is built for one"; \
  }
bool has_gpu();

// Sets the number of threads for a scope.
class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

// How the values of a tensor lie in memory.
enum class Memory {
  kContiguous,
  kChannelsLast,  // (N, ..., C): also for rank 3, where torch has no name for it
  kTransposed,    // all axes reversed: dense, but neither channels first nor last
  kSliced,        // a part of a larger tensor: gaps, an offset, no alignment
  kExpanded,      // one sample for the whole batch (stride 0); changes the values
};
const std::vector<Memory>& all_memory();
std::string name_of(Memory memory);
inline void PrintTo(Memory memory, std::ostream* out) {
  *out << name_of(memory);
}

// `values`, laid out as asked for.
at::Tensor laid_out(const at::Tensor& values, Memory memory);

// "Fp32", "Fp64", "Bf16", "Fp16"
std::string name_of(at::ScalarType dtype);

// input's dtype, and that of parameters and running statistics
struct Types {
  at::ScalarType input;
  at::ScalarType parameters;
};
// Every combination that the operators take.
const std::vector<Types>& all_types();
std::string name_of(const Types& types);

// The dtypes of inputs.
const std::vector<at::ScalarType>& all_dtypes();

// (N, C, ...) of small, uneven sizes.
std::vector<int64_t> small_shape(int64_t rank);

// Standard normal values in float64, the same on every run and every machine.
at::Tensor normal(at::IntArrayRef shape, uint64_t seed);

// Normal values from a repeated block: random numbers are slow to make, and few suffice.
at::Tensor many_normal(at::IntArrayRef shape);

// For test suites that are instantiated with devices(), one thread unless a test says otherwise:
// most tensors are small, and on a busy machine threads would wait for each other.
class DeviceTest : public testing::TestWithParam<at::Device> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam()); }
  at::Device device() const { return GetParam(); }

 private:
  Threads threads_{1};
};

}  // namespace torchbn::test
