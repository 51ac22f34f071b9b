#include "cuda/normalize.h"

#include "cuda/dispatch.cuh"
#include "cuda/transform.cuh"
#include "cuda/workspace.h"

namespace torchbn::cuda {

cudaError_t normalize(const void* input, void* output, DType dtype, int64_t* num_batches_tracked,
                      const Launch& launch) {
  return with_tiling(dtype, launch.policy, [&]<typename T, int kWidth>(const auto& tiling) {
    using Op = Normalize<T, kWidth>;
    const Op op{static_cast<const T*>(input), static_cast<T*>(output),
                coefficients<typename Op::Coefficients>(launch), launch.policy.past_caches};
    return launch_transform(op, tiling, num_batches_tracked, launch.stream);
  });
}

}  // namespace torchbn::cuda
