#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace torchbn {

// Of a that are not negative and positive b.

// a / b, rounded up.
TORCHBN_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The least multiple of b that is a or more.
TORCHBN_HOST_DEVICE constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// std::min, for which translation units of several instruction sets would each emit a function.
TORCHBN_HOST_DEVICE constexpr int64_t lesser(int64_t a, int64_t b) {
  return a < b ? a : b;
}

}  // namespace torchbn
