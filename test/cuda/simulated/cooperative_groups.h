#pragma once

// As cuda_runtime_api.h: clusters of blocks.

#include "cuda/simulated/device.h"

namespace cooperative_groups {

struct cluster_group {
  static unsigned block_rank() { return torchbn::simulated::rank_in_cluster(); }
  static void barrier_arrive() { torchbn::simulated::arrive_at_cluster(); }
  static void barrier_wait() { torchbn::simulated::wait_for_cluster(); }

  template <typename T>
  static T* map_shared_rank(T* own, int rank) {
    return static_cast<T*>(torchbn::simulated::shared_of_rank(own, static_cast<unsigned>(rank)));
  }
};

inline cluster_group this_cluster() {
  return {};
}

}  // namespace cooperative_groups
