// Runs the TorchScript model of train_digits.py on the held-out digits, and checks that its
// predictions are those that Python got.
//
//   infer_digits model.pt digits.pt
//
// Nothing here names batch normalization: the model does, and finds the operator because the
// program is linked to torchbn::torchbn.

#include <ATen/Parallel.h>

#include <cstdio>
#include <exception>
#include <iostream>

#include "digits.h"

namespace {

bool infer(const char* model_path, const char* digits_path) {
  at::set_num_threads(1);  // the images are small
  const Digits digits = load_digits(digits_path);
  auto model = torch::jit::load(model_path);
  model.eval();

  const c10::InferenceMode inference;
  const at::Tensor logits = model.forward({digits.test_images}).toTensor();  // [360, 10]

  const int64_t count = digits.test_labels.size(0);
  const int64_t hits = count_hits(logits, digits.test_labels);
  const int64_t python_hits = count_hits(digits.logits, digits.test_labels);
  const int64_t same = count_hits(logits, digits.logits.argmax(1));
  const double difference = (logits - digits.logits).abs().max().item<double>();
  std::printf("accuracy in C++:    %.2f %% (%ld of %ld)\n", 100.0 * hits / count, hits, count);
  std::printf("accuracy in Python: %.2f %% (%ld of %ld)\n", 100.0 * python_hits / count,
              python_hits, count);
  std::printf("equal predictions:  %ld of %ld, largest difference of a logit %.0e\n", same, count,
              difference);
  if (same != count) {
    std::cerr << "error: C++ and Python disagree\n";
    return false;
  }
  std::cout << "C++ agrees with Python.\n";
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: infer_digits MODEL DIGITS\n"
                 "the files model.pt and digits.pt that train_digits.py writes\n";
    return 2;
  }
  try {
    return infer(argv[1], argv[2]) ? 0 : 1;
  } catch (const c10::Error& error) {
    std::cerr << "error: " << error.what_without_backtrace() << '\n';
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
  }
  return 1;
}
