#pragma once

// As cuda_runtime_api.h: clusters of blocks, and a grid whose blocks all run at once, which is
// simulated as a large cluster.

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

struct grid_group {
  static void sync() {
    torchbn::simulated::arrive_at_cluster();
    torchbn::simulated::wait_for_cluster();
  }
};

inline grid_group this_grid() {
  return {};
}

}  // namespace cooperative_groups
