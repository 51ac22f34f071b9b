#include "cuda/launch_policy.h"

#include "cuda/on_chip/policy.h"
#include "cuda/split_policy.h"

namespace torchbn::cuda {

namespace {

// Of the L2 cache, the part that an output may take in which others might find it. Measured on an
// H200, larger ones are up to a tenth faster where they leave the cache to what is read.
constexpr int64_t kPartOfCache = 4;

template <typename Problem>
LaunchPolicy with_stores(LaunchPolicy policy, const Problem& problem, const DeviceLimits& device) {
  const int64_t bytes = problem.extent.numel() * static_cast<int64_t>(size_of(problem.dtype));
  policy.past_caches = kPartOfCache * bytes > device.l2_bytes;
  return policy;
}

}  // namespace

std::optional<KernelChoice> kernel_choice(std::string_view name) {
  if (name == "split") return KernelChoice::kSplit;
  if (name == "resident") return KernelChoice::kResident;
  if (name == "cooperative") return KernelChoice::kCooperative;
  if (name == "auto") return KernelChoice::kAuto;
  return std::nullopt;
}

LaunchPolicy choose_policy(const TrainProblem& problem, const DeviceLimits& device,
                           KernelChoice choice) {
  const LaunchPolicy split = split_policy(problem.extent, problem.dtype, true, device);
  return with_stores(on_chip_or(split, problem.extent, problem.dtype, 1, device, choice), problem,
                     device);
}

// Nothing is to be read twice.
LaunchPolicy choose_policy(const InferenceProblem& problem, const DeviceLimits& device,
                           KernelChoice) {
  return with_stores(split_policy(problem.extent, problem.dtype, false, device), problem, device);
}

LaunchPolicy choose_policy(const BackwardProblem& problem, const DeviceLimits& device,
                           KernelChoice choice) {
  const Extent& extent = problem.extent;
  LaunchPolicy policy = split_policy(extent, problem.dtype, problem.needs_sums(), device);
  if (problem.maps_after_sums()) {
    policy = on_chip_or(policy, extent, problem.dtype, 2, device, choice);
  } else if (problem.needs_sums()) {
    policy = summing_in_clusters_or(policy, extent, problem.dtype, 2, device, choice);
    policy.maps_while_summing = problem.grad_input != nullptr && choice != KernelChoice::kSplit;
  }
  return with_stores(policy, problem, device);
}

}  // namespace torchbn::cuda
