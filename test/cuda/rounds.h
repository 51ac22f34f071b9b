#pragma once

#include "cuda/launch_policy.h"

namespace torchbn::test {

inline int64_t groups_of(const cuda::LaunchPolicy& policy) {
  return policy.layout == Layout::kChannelsFirst ? policy.channels_first.groups()
                                                 : policy.channels_last.groups();
}

// Of a thread, in a unit.
inline int64_t thread_vectors_of(const cuda::LaunchPolicy& policy) {
  return policy.layout == Layout::kChannelsFirst ? policy.channels_first.thread_vectors()
                                                 : policy.channels_last.thread_vectors();
}

// Of teams, in which these take all groups; 0 where none are in use.
inline int64_t rounds_of(const cuda::LaunchPolicy& policy) {
  if (policy.on_chip.team == 0) return 0;
  return ceil_div(groups_of(policy), policy.on_chip.teams);
}

}  // namespace torchbn::test
