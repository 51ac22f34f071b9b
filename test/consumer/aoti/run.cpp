// Runs a package that was compiled ahead of time, without Python, on the input that example.pt
// holds; the output must be the one beside it: run FOLDER. No symbol of torchbn is named.

#include <ATen/ops/allclose.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/pickle.h>

#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace {

c10::Dict<c10::IValue, c10::IValue> read_example(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file, "cannot read ", path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  return torch::jit::pickle_load(bytes).toGenericDict();
}

// Whether a Python interpreter or torch's binding to it is a part of this process.
bool has_python() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const std::string file = line.substr(line.rfind('/') + 1);
    if (file.starts_with("libpython") || file.starts_with("libtorch_python")) return true;
  }
  return false;
}

bool run(const std::string& folder) {
  const auto example = read_example(folder + "/example.pt");
  torch::inductor::AOTIModelPackageLoader net(folder + "/net.pt2");
  const at::Tensor output = net.run({example.at("input").toTensor()}).at(0);
  if (!at::allclose(output, example.at("output").toTensor(), 1e-5, 1e-6)) {
    std::puts("the package gives something else than Python");
    return false;
  }
  if (has_python()) {
    std::puts("there is a Python in this program");
    return false;
  }
  std::puts("the package gives what Python gives");
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: run FOLDER\n", stderr);
    return 2;
  }
  try {
    return run(argv[1]) ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
