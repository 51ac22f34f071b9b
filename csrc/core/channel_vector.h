#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/host_device.h"

namespace torchbn {

// One value per channel (a parameter, a running statistic, a gradient), of any dtype and stride.
// There are few of them, so the dtype is a run-time switch and the kernels need no instance per
// combination of dtypes.
struct ChannelVector {
  const void* data = nullptr;  // [C], stride in elements; null when the argument is absent
  int64_t stride = 1;
  DType dtype = DType::kFloat32;

  TORCHBN_HOST_DEVICE bool present() const { return data != nullptr; }
  TORCHBN_HOST_DEVICE const void* address(int64_t channel) const {
    return static_cast<const unsigned char*>(data) +
           channel * stride * static_cast<int64_t>(size_of(dtype));
  }

  TORCHBN_HOST_DEVICE double load(int64_t channel) const {
    const int64_t i = channel * stride;
    switch (dtype) {
      case DType::kFloat32:
        return static_cast<const float*>(data)[i];
      case DType::kFloat64:
        return static_cast<const double*>(data)[i];
      case DType::kBFloat16:
        return widen(static_cast<const BFloat16*>(data)[i]);
      case DType::kFloat16:
        return widen(static_cast<const Float16*>(data)[i]);
    }
    return 0;
  }

  TORCHBN_HOST_DEVICE double load_or(int64_t channel, double absent) const {
    return present() ? load(channel) : absent;
  }
};

// The same of one that is written.
struct MutableChannelVector {
  void* data = nullptr;
  int64_t stride = 1;
  DType dtype = DType::kFloat32;

  TORCHBN_HOST_DEVICE bool present() const { return data != nullptr; }
  TORCHBN_HOST_DEVICE ChannelVector read() const { return {data, stride, dtype}; }
  TORCHBN_HOST_DEVICE double load(int64_t channel) const { return read().load(channel); }

  TORCHBN_HOST_DEVICE void store(int64_t channel, double value) const {
    const int64_t i = channel * stride;
    switch (dtype) {
      case DType::kFloat32:
        static_cast<float*>(data)[i] = round_to<float>(value);
        break;
      case DType::kFloat64:
        static_cast<double*>(data)[i] = round_to<double>(value);
        break;
      case DType::kBFloat16:
        static_cast<BFloat16*>(data)[i] = round_to<BFloat16>(value);
        break;
      case DType::kFloat16:
        static_cast<Float16*>(data)[i] = round_to<Float16>(value);
        break;
    }
  }
};

}  // namespace torchbn
