// The operators on a GPU: checks, allocation, launches.

#include <array>
#include <atomic>
#include <charconv>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include <ATen/core/Tensor.h>
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAMacros.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include "calls.h"
#include "checks.h"
#include "cuda/kernels.h"
#include "cuda/launch_policy.h"
#include "cuda/on_chip/kernels.h"
#include "operators.h"
#include "optional_tensor.h"

namespace torchbn {

namespace {

using ops::ThreeTensors;

// What TORCHBN_CUDA_KERNEL asks for, read at every call so that a test can change it.
cuda::KernelChoice requested_kernel() {
  const char* const name = std::getenv("TORCHBN_CUDA_KERNEL");
  if (name == nullptr) return cuda::kDefaultKernel;
  const std::optional<cuda::KernelChoice> choice = cuda::kernel_choice(name);
  TORCH_CHECK_VALUE(
      choice.has_value(),
      "TORCHBN_CUDA_KERNEL must be split, resident, cooperative or auto, but it is \"", name, "\"");
  return *choice;
}

// What TORCHBN_CUDA_LEFT_FREE asks for, likewise.
int64_t multiprocessors_left_free(int64_t multiprocessors) {
  const char* const text = std::getenv("TORCHBN_CUDA_LEFT_FREE");
  if (text == nullptr) return 0;
  const char* const end = text + std::strlen(text);
  int64_t number = -1;
  const auto [stopped, error] = std::from_chars(text, end, number);
  TORCH_CHECK_VALUE(
      error == std::errc() && stopped == end && number >= 0 && number < multiprocessors,
      "TORCHBN_CUDA_LEFT_FREE must be a number of multiprocessors below ", multiprocessors,
      ", but it is \"", text, "\"");
  return number;
}

// Blocks of the largest clusters, of the current device and the code that it runs: asked for once.
int max_cluster(const cudaDeviceProp& properties) {
  static std::array<std::atomic<int>, C10_COMPILE_TIME_MAX_GPUS> known{};
  std::atomic<int>& blocks = known[static_cast<uint8_t>(c10::cuda::current_device())];
  if (blocks == 0) {
    bool in_code = false;
    C10_CUDA_CHECK(cuda::code_has_clusters(&in_code));
    blocks = properties.clusterLaunch != 0 && in_code ? 8 : 1;
  }
  return blocks;
}

cuda::DeviceLimits limits_of_current_device() {
  const cudaDeviceProp& properties = *at::cuda::getCurrentDeviceProperties();
  cuda::DeviceLimits limits;
  limits.multiprocessors = properties.multiProcessorCount;
  limits.left_free = multiprocessors_left_free(limits.multiprocessors);
  limits.shared_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  limits.shared_per_multiprocessor = static_cast<int64_t>(properties.sharedMemPerMultiprocessor);
  limits.l2_bytes = properties.l2CacheSize;
  limits.max_cluster = max_cluster(properties);
  return limits;
}

// Hands the call's problem to a kernel function, with launch numbers, workspace and current stream.
// The workspace goes back to the caching allocator at once: that is ordered by the stream.
template <typename Call, typename Problem>
ThreeTensors run(Call& call, const at::Device& device,
                 cudaError_t (*kernels)(const Problem&, const cuda::Launch&)) {
  const cuda::KernelChoice choice = requested_kernel();
  if (call.empty()) return std::move(call).results();
  const Problem& problem = call.problem();
  const cuda::DeviceLimits limits = limits_of_current_device();
  const auto enqueue = [&](cuda::KernelChoice kernel) {
    cuda::Launch launch;
    launch.policy = cuda::choose_policy(problem, limits, kernel);
    at::Tensor workspace;  // clusters need none
    if (launch.policy.workspace_bytes > 0) {
      workspace = at::empty({static_cast<int64_t>(launch.policy.workspace_bytes)},
                            at::TensorOptions().dtype(at::kByte).device(device));
      launch.workspace = workspace.mutable_data_ptr();
    }
    launch.stream = c10::cuda::getCurrentCUDAStream().stream();
    return kernels(problem, launch);
  };

  cudaError_t error = enqueue(choice);
  // Of a part of a device, or under a tool, fewer blocks run together than its properties tell.
  // With these errors nothing has run; after others the running statistics might be updated twice.
  const bool too_many_together =
      error == cudaErrorCooperativeLaunchTooLarge || error == cudaErrorInvalidClusterSize;
  if (too_many_together && choice == cuda::KernelChoice::kAuto) {
    static_cast<void>(cudaGetLastError());  // or somebody else would find it
    error = enqueue(cuda::KernelChoice::kSplit);
  }
  C10_CUDA_CHECK(error);
  return std::move(call).results();
}

// Kernels load vectors. What does not begin on their boundary, as a slice of a buffer may, is
// copied, unless its memory has been freed, which is for the call to say.
at::Tensor on_boundary(const at::Tensor& tensor) {
  if (!tensor.unsafeGetTensorImpl()->storage_initialized()) return tensor;
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % cuda::kVectorBytes == 0 ? tensor : tensor.clone();
}
std::optional<at::Tensor> on_boundary(const std::optional<at::Tensor>& tensor) {
  return present(tensor) ? std::optional(on_boundary(*tensor)) : std::nullopt;
}

ThreeTensors batch_norm_train_cuda(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                                   const std::optional<at::Tensor>& bias,
                                   const std::optional<at::Tensor>& running_mean,
                                   const std::optional<at::Tensor>& running_var,
                                   const std::optional<at::Tensor>& num_batches_tracked,
                                   std::optional<double> momentum, double eps) {
  check_train(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum, eps);
  const c10::cuda::CUDAGuard guard(input.device());
  TrainCall call(on_boundary(input), weight, bias, running_mean, running_var, num_batches_tracked,
                 momentum, eps);
  return run(call, input.device(), cuda::train);
}

ThreeTensors batch_norm_inference_cuda(const at::Tensor& input,
                                       const std::optional<at::Tensor>& weight,
                                       const std::optional<at::Tensor>& bias,
                                       const at::Tensor& running_mean,
                                       const at::Tensor& running_var, double eps) {
  check_inference(input, weight, bias, running_mean, running_var, eps);
  const c10::cuda::CUDAGuard guard(input.device());
  InferenceCall call(on_boundary(input), weight, bias, running_mean, running_var, eps);
  return run(call, input.device(), cuda::inference);
}

ThreeTensors batch_norm_backward_cuda(const at::Tensor& grad_output,
                                      const std::optional<at::Tensor>& input,
                                      const std::optional<at::Tensor>& weight,
                                      const at::Tensor& mean, const at::Tensor& invstd,
                                      bool training, bool need_input, bool need_weight,
                                      bool need_bias) {
  check_backward(grad_output, input, weight, mean, invstd, training, need_input, need_weight);
  const c10::cuda::CUDAGuard guard(grad_output.device());
  BackwardCall call(on_boundary(grad_output), on_boundary(input), weight, mean, invstd, training,
                    need_input, need_weight, need_bias);
  return run(call, grad_output.device(), cuda::backward);
}

}  // namespace

TORCH_LIBRARY_IMPL(torchbn, CUDA, m) {
  m.impl("batch_norm_train", TORCH_FN(batch_norm_train_cuda));
  m.impl("batch_norm_inference", TORCH_FN(batch_norm_inference_cuda));
  m.impl("batch_norm_backward", TORCH_FN(batch_norm_backward_cuda));
}

}  // namespace torchbn
