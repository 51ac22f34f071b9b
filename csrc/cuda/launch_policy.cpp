#include "cuda/launch_policy.h"

#include "cuda/on_chip/policy.h"
#include "cuda/split_policy.h"

namespace torchbn::cuda {

namespace {

uintptr_t bits(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
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
  const uintptr_t addresses = bits(problem.input) | bits(problem.output);
  return on_chip_or(split_policy(problem.extent, problem.dtype, addresses, true, device),
                    problem.extent, problem.dtype, 1, addresses, device, choice);
}

// Nothing is to be read twice.
LaunchPolicy choose_policy(const InferenceProblem& problem, const DeviceLimits& device,
                           KernelChoice) {
  return split_policy(problem.extent, problem.dtype, bits(problem.input) | bits(problem.output),
                      false, device);
}

// Only training with an input's gradient needs anything twice.
LaunchPolicy choose_policy(const BackwardProblem& problem, const DeviceLimits& device,
                           KernelChoice choice) {
  const uintptr_t addresses =
      bits(problem.grad_output) | bits(problem.input) | bits(problem.grad_input);
  LaunchPolicy split =
      split_policy(problem.extent, problem.dtype, addresses, problem.needs_sums(), device);
  if (problem.grad_input == nullptr) return split;
  if (!problem.training) {
    split.maps_while_summing = problem.needs_sums() && choice != KernelChoice::kSplit;
    return split;
  }
  return on_chip_or(split, problem.extent, problem.dtype, 2, addresses, device, choice);
}

}  // namespace torchbn::cuda
