#include "cuda/launch_policy.h"

#include "cuda/on_chip/policy.h"
#include "cuda/split_policy.h"

namespace torchbn::cuda {

std::optional<KernelChoice> kernel_choice(std::string_view name) {
  if (name == "split") return KernelChoice::kSplit;
  if (name == "resident") return KernelChoice::kResident;
  if (name == "cooperative") return KernelChoice::kCooperative;
  if (name == "auto") return KernelChoice::kAuto;
  return std::nullopt;
}

LaunchPolicy choose_policy(const TrainProblem& problem, const DeviceLimits& device,
                           KernelChoice choice) {
  return on_chip_or(split_policy(problem.extent, problem.dtype, true, device), problem.extent,
                    problem.dtype, 1, device, choice);
}

// Nothing is to be read twice.
LaunchPolicy choose_policy(const InferenceProblem& problem, const DeviceLimits& device,
                           KernelChoice) {
  return split_policy(problem.extent, problem.dtype, false, device);
}

// Only training with an input's gradient needs anything twice.
LaunchPolicy choose_policy(const BackwardProblem& problem, const DeviceLimits& device,
                           KernelChoice choice) {
  LaunchPolicy split = split_policy(problem.extent, problem.dtype, problem.needs_sums(), device);
  if (problem.grad_input == nullptr) return split;
  if (!problem.training) {
    split.maps_while_summing = problem.needs_sums() && choice != KernelChoice::kSplit;
    return split;
  }
  return on_chip_or(split, problem.extent, problem.dtype, 2, device, choice);
}

}  // namespace torchbn::cuda
