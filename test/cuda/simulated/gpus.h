#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <vector>

#include "cuda/simulated/runtime.h"

// What cudaStream_t and the others point to.
struct CUstream_st {
  int device = 0;
  CUgraph_st* captured = nullptr;  // while it captures
};
struct CUevent_st {};
struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  CUgraph_st graph;
};

// The state of the simulated GPUs.
namespace torchbn::simulated {

inline constexpr size_t kMemory = size_t{16} << 30;  // of each, and taken when it is touched

struct Gpu {
  unsigned char* memory = nullptr;
  size_t used = 0;
  CUstream_st default_stream;

  void protect(int protection) const;
};

struct Gpus {
  std::recursive_mutex mutex;  // of all below, and of device.h
  std::array<Gpu, kDevices> all;
  std::vector<Launched> launched;
  int torch_calls = 0;
  cudaError_t clusters = cudaSuccess, cooperative = cudaSuccess;
  bool is_protected = false;
  int captures = 0;  // that have begun and not ended

  Gpus();
  Gpu& operator[](int device) { return all[static_cast<size_t>(device)]; }
};

// Never destroyed: torch calls on until the end.
Gpus& gpus();

extern thread_local int current_device;
extern thread_local cudaError_t last_error;

// The error, which is the last one now.
cudaError_t fail(cudaError_t error);

cudaDeviceProp properties_of(int device);

// The device whose memory it is; the host's has none.
std::optional<int> device_of(const void* memory);

// The null stream is the current device's.
CUstream_st& stream_of(cudaStream_t stream);

// Runs it, or has a graph record it.
void queue(cudaStream_t stream, std::function<void()> work);

// Makes a device's memory accessible for a scope, if it is not.
class Accessible {
 public:
  explicit Accessible(int device);
  ~Accessible();
  Accessible(const Accessible&) = delete;
  Accessible& operator=(const Accessible&) = delete;

 private:
  int device_;
};

}  // namespace torchbn::simulated
