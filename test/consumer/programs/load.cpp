// Runs a TorchScript file that calls torchbn's operators, and names none of its symbols:
//
//   load MODEL [LIBRARY]
//
// The library is there because the program was linked to it, or else because dlopen loads it.

#include <ATen/core/ivalue.h>
#include <ATen/ops/ones.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/serialization/import.h>

#include <dlfcn.h>

#include <cstdio>
#include <exception>

namespace {

bool run(const char* model) {
  torch::jit::Module module = torch::jit::load(model);
  const at::Tensor output = module.forward({at::ones({4, 3, 5})}).toTensor();
  // A constant channel comes out as the bias, which the model leaves at 0.
  const bool right = output.abs().max().item<double>() == 0.0;
  std::printf("the model gives %s\n", right ? "zeros, as it should" : "something else than zeros");
  return right;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 && argc != 3) {
    std::fprintf(stderr, "usage: load MODEL [LIBRARY]\n");
    return 2;
  }
  if (argc == 3) {
    void* const library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      std::fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    dlclose(library);  // changes nothing: the library stays, since torch has its operators
  }
  try {
    return run(argv[1]) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
