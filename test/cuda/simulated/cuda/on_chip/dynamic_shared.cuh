#pragma once

#include "cuda/simulated/device.h"

// Found before the header of the same name in csrc.
namespace torchbn::cuda {

inline unsigned char* dynamic_shared() {
  return static_cast<unsigned char*>(simulated::dynamic_shared());
}

}  // namespace torchbn::cuda
