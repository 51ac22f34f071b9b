#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::test {

inline int64_t groups_of(const cuda::LaunchPolicy& policy) {
  return cuda::of_tiling(policy, [](const auto& tiling) { return tiling.groups(); });
}

// Of a thread, in a unit.
inline int64_t thread_vectors_of(const cuda::LaunchPolicy& policy) {
  return cuda::of_tiling(policy, [](const auto& tiling) { return tiling.thread_vectors(); });
}

// Of teams, in which these take all groups; 0 where none are in use.
inline int64_t rounds_of(const cuda::LaunchPolicy& policy) {
  if (policy.on_chip.team == 0) return 0;
  return ceil_div(groups_of(policy), policy.on_chip.teams);
}

}  // namespace torchbn::test
