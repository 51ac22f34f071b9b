#pragma once

// Clusters exist from compute capability 9.0 on; before, one block is all there is of a cluster.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define TORCHBN_HAS_CLUSTERS
#include <cooperative_groups.h>
#endif

namespace torchbn::cuda {

// The blocks that run together and see each other's shared memory. A cluster of one block has no
// barriers but the block's own.
class Cluster {
 public:
  __device__ explicit Cluster(int size) : size_(size) {}

  __device__ int size() const { return size_; }

  __device__ int rank() const {
#ifdef TORCHBN_HAS_CLUSTERS
    if (size_ > 1) return static_cast<int>(cooperative_groups::this_cluster().block_rank());
#endif
    return 0;
  }

  // What lies in the shared memory of the block `rank` where `own` lies in this block's.
  template <typename T>
  __device__ const T* of_rank(T* own, [[maybe_unused]] int rank) const {
#ifdef TORCHBN_HAS_CLUSTERS
    if (size_ > 1) return cooperative_groups::this_cluster().map_shared_rank(own, rank);
#endif
    return own;
  }

  // All threads of all blocks wait for each other.
  __device__ void sync() const {
    if (size_ > 1) {
      arrive();
      wait();
    } else {
      __syncthreads();
    }
  }

  // The two halves of a barrier among blocks: a block may not end before the others have read what
  // they need of it.
  __device__ void arrive() const {
#ifdef TORCHBN_HAS_CLUSTERS
    if (size_ > 1) cooperative_groups::this_cluster().barrier_arrive();
#endif
  }
  __device__ void wait() const {
#ifdef TORCHBN_HAS_CLUSTERS
    if (size_ > 1) cooperative_groups::this_cluster().barrier_wait();
#endif
  }

 private:
  int size_;
};

// The blocks' sums in the order of their ranks.
template <typename Sums>
__device__ Sums merge_cluster(const Cluster& cluster, Sums* own) {
  Sums sums = *cluster.of_rank(own, 0);
  for (int rank = 1; rank < cluster.size(); ++rank) sums.merge(*cluster.of_rank(own, rank));
  return sums;
}

}  // namespace torchbn::cuda
