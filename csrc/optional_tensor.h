#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

namespace torchbn {

// An argument that was not given is absent from Python and may be an undefined tensor from C++.
inline bool present(const std::optional<at::Tensor>& tensor) {
  return tensor.has_value() && tensor->defined();
}

}  // namespace torchbn
