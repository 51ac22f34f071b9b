#pragma once

// The digits that train_digits.py writes, for the two C++ programs.

#include <torch/script.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

struct Digits {
  at::Tensor train_images;  // [1437, 1, 8, 8], float32 between 0 and 1
  at::Tensor train_labels;  // [1437], int64
  at::Tensor test_images;   // [360, 1, 8, 8]
  at::Tensor test_labels;   // [360]
  at::Tensor logits;        // [360, 10], what Python's trained net says of test_images
};

inline Digits load_digits(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file, "cannot read ", path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  const auto tensors = torch::jit::pickle_load(bytes).toGenericDict();
  const auto get = [&](const char* name) { return tensors.at(name).toTensor(); };
  return {get("train_images"), get("train_labels"), get("test_images"), get("test_labels"),
          get("logits")};
}

/// How many rows of logits [N, 10] are largest at their label [N].
inline int64_t count_hits(const at::Tensor& logits, const at::Tensor& labels) {
  return logits.argmax(1).eq(labels).sum().item<int64_t>();
}
