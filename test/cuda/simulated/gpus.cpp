#include "cuda/simulated/gpus.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "cuda/simulated/device.h"

namespace torchbn::simulated {

namespace {

// What a GPU would say to a launch on the current device.
cudaError_t answer(const Launch& launch) {
  const auto* const stream = static_cast<cudaStream_t>(launch.stream);
  if (stream != nullptr && stream->device != current_device) return cudaErrorInvalidResourceHandle;
  const cudaDeviceProp properties = properties_of(current_device);
  if (launch.dynamic_shared > properties.sharedMemPerBlockOptin) return cudaErrorInvalidValue;
  if (launch.cooperative) {
    // As far as shared memory goes, of which every block takes 1 KiB more than it asks for.
    const size_t per_multiprocessor =
        properties.sharedMemPerMultiprocessor / (launch.dynamic_shared + 1024);
    if (launch.grid > per_multiprocessor * static_cast<size_t>(properties.multiProcessorCount))
      return cudaErrorCooperativeLaunchTooLarge;
    return gpus().cooperative;
  }
  if (launch.cluster > 1)
    return properties.clusterLaunch != 0 ? gpus().clusters : cudaErrorInvalidClusterSize;
  return cudaSuccess;
}

int enqueue_launch(const Launch& launch) {
  const std::lock_guard lock(gpus().mutex);
  if (const cudaError_t error = answer(launch); error != cudaSuccess) return fail(error);
  auto* const stream = static_cast<cudaStream_t>(launch.stream);
  gpus().launched.push_back(
      {current_device, stream, launch.grid, launch.cluster, launch.cooperative});
  queue(stream, [launch, device = current_device] {
    const Accessible access(device);
    run(launch);
  });
  return cudaSuccess;
}

}  // namespace

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;

void Gpu::protect(int protection) const {
  if (mprotect(memory, kMemory, protection) != 0) std::abort();
}

Gpus::Gpus() {
  for (int device = 0; device < kDevices; ++device) {
    Gpu& gpu = (*this)[device];
    void* const memory = mmap(nullptr, kMemory, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    gpu.memory = static_cast<unsigned char*>(memory);
    gpu.default_stream.device = device;
  }
  set_queue(enqueue_launch);
}

Gpus& gpus() {
  static Gpus& the = *new Gpus;
  return the;
}

cudaError_t fail(cudaError_t error) {
  return last_error = error;
}

cudaDeviceProp properties_of(int device) {
  cudaDeviceProp properties{};
  const bool newer = device == kFirstDevice;
  std::snprintf(properties.name, sizeof properties.name, "simulated GPU %d", device);
  properties.major = newer ? 9 : 8;
  properties.clusterLaunch = newer ? 1 : 0;
  properties.multiProcessorCount = newer ? 4 : 3;
  properties.sharedMemPerBlock = size_t{48} << 10;
  properties.sharedMemPerBlockOptin = size_t{newer ? 227u : 163u} << 10;
  properties.sharedMemPerMultiprocessor = size_t{newer ? 228u : 164u} << 10;
  properties.l2CacheSize = newer ? 4 << 20 : 2 << 20;
  properties.warpSize = 32;
  properties.maxThreadsPerBlock = 1024;
  properties.maxThreadsPerMultiProcessor = 2048;
  properties.regsPerBlock = properties.regsPerMultiprocessor = 65536;
  properties.maxGridSize[0] = 2147483647;
  properties.totalGlobalMem = kMemory;
  return properties;
}

std::optional<int> device_of(const void* memory) {
  for (int device = 0; device < kDevices; ++device) {
    const unsigned char* const begin = gpus()[device].memory;
    if (memory >= begin && memory < begin + kMemory) return device;
  }
  return std::nullopt;
}

CUstream_st& stream_of(cudaStream_t stream) {
  return stream != nullptr ? *stream : gpus()[current_device].default_stream;
}

void queue(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard lock(gpus().mutex);
  if (CUgraph_st* const graph = stream_of(stream).captured)
    graph->work.push_back(std::move(work));
  else
    work();
}

Accessible::Accessible(int device) : device_(device) {
  if (gpus().is_protected) gpus()[device_].protect(PROT_READ | PROT_WRITE);
}

Accessible::~Accessible() {
  if (gpus().is_protected) gpus()[device_].protect(PROT_NONE);
}

std::vector<Launched> launched() {
  const std::lock_guard lock(gpus().mutex);
  return std::exchange(gpus().launched, {});
}

int torch_calls() {
  const std::lock_guard lock(gpus().mutex);
  return gpus().torch_calls;
}

void refuse_clusters(cudaError_t error) {
  const std::lock_guard lock(gpus().mutex);
  gpus().clusters = error;
}

void refuse_cooperative(cudaError_t error) {
  const std::lock_guard lock(gpus().mutex);
  gpus().cooperative = error;
}

Protection::Protection() {
  gpus().mutex.lock();
  gpus().is_protected = true;
  for (const Gpu& gpu : gpus().all) gpu.protect(PROT_NONE);
}

Protection::~Protection() {
  for (const Gpu& gpu : gpus().all) gpu.protect(PROT_READ | PROT_WRITE);
  gpus().is_protected = false;
  gpus().mutex.unlock();
}

}  // namespace torchbn::simulated
