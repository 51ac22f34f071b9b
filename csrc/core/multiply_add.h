#pragma once

#include "core/host_device.h"

namespace torchbn {

// a * b + c. One rounding or two: whichever is fast where the kernel runs. Vector code of the CPU
// says which by a specialisation for its registers; compilers must not decide (-ffp-contract=off).
template <typename T>
struct MultiplyAdd {
  static TORCHBN_HOST_DEVICE T of(T a, T b, T c) { return a * b + c; }
};

template <typename T>
TORCHBN_HOST_DEVICE T multiply_add(T a, T b, T c) {
  return MultiplyAdd<T>::of(a, b, c);
}

}  // namespace torchbn
