#include "core/gradient.h"
#include "cuda/dispatch.cuh"
#include "cuda/finish.cuh"
#include "cuda/on_chip/cooperative.cuh"
#include "cuda/on_chip/kernels.h"
#include "cuda/on_chip/resident.cuh"

namespace torchbn::cuda {

namespace {

// Of training, with the input's gradient.
template <typename T, int kWidth>
struct BackwardPass {
  using Value = T;
  using Reduction = GradientReduction<T, kWidth>;
  using Transform = InputGradient<T, kWidth>;
  static constexpr int kTensors = 2;

  BackwardProblem problem;
  bool past_caches;

  __device__ const T* tensor(int which) const {
    return static_cast<const T*>(which == 0 ? problem.grad_output : problem.input);
  }

  template <typename Sources>
  __device__ Reduction reduction(const Sources& sources) const {
    return {sources(0), sources(1), problem.mean};
  }

  static __device__ void keep(T* const* slots, int to, const typename Reduction::Item& item) {
    store_vector(slots[0] + to, item.dy);
    store_vector(slots[1] + to, item.x);
  }

  __device__ typename Transform::Coefficients finish(int64_t channel, const GradientSums& merged,
                                                     bool stores) const {
    using C = Compute<T>;
    return training_gradient<C>(problem, channel,
                                finish_parameters<C>(problem, channel, merged, stores));
  }

  template <typename Sources>
  __device__ Transform transform(const Sources& sources,
                                 const typename Transform::Coefficients* coefficients,
                                 int64_t first_channel) const {
    return {sources(0),   sources(1),  static_cast<T*>(problem.grad_input),
            coefficients, past_caches, first_channel};
  }
};

}  // namespace

cudaError_t backward_on_chip(const BackwardProblem& problem, const Launch& launch) {
  return with_tiling(problem.dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    const BackwardPass<T, kWidth> pass{problem, launch.policy.past_caches};
    return launch.policy.on_chip.team > 0 ? launch_cooperative(pass, tiling, launch, nullptr)
                                          : launch_resident(pass, tiling, launch, nullptr);
  });
}

}  // namespace torchbn::cuda
