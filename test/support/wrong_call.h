#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "support/call.h"

namespace torchbn::test {

// Where wrong calls are made.
struct Place {
  std::string name;
  at::Device device;
  bool inference_mode;
};
inline void PrintTo(const Place& place, std::ostream* out) {
  *out << place.name;
}
const std::vector<Place>& all_places();

// A call with every argument given and nothing wrong: input [4, 3, 5].
Arguments valid_call(at::Device device);

// A tensor like this one on another device.
at::Tensor elsewhere(const at::Tensor& tensor);

// Fails unless `call` raises a c10::Error whose message contains all the words.
void expect_error(const std::vector<std::string>& words, const std::function<void()>& call);

// What an argument looks like before the call, to be compared with after it.
class Snapshot {
 public:
  explicit Snapshot(const at::Tensor& tensor);
  void expect_unchanged(const char* name) const;

 private:
  at::Tensor tensor_, values_;
  int64_t version_ = 0;
};

}  // namespace torchbn::test
