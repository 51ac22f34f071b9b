// Loads a TorchScript file that calls torchbn's operators, and names none of its symbols: the
// library is there only because linking torchbn::torchbn keeps it.

#include <ATen/core/ivalue.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: load MODEL\n");
    return 2;
  }
  torch::jit::Module module = torch::jit::load(argv[1]);
  const at::Tensor output = module.forward({at::ones({4, 3, 5})}).toTensor();
  // A constant channel comes out as the bias, which the model leaves at 0.
  const bool right = output.abs().max().item<double>() == 0.0;
  std::printf("the model gives %s\n", right ? "zeros, as it should" : "something else than zeros");
  return right ? 0 : 1;
}
