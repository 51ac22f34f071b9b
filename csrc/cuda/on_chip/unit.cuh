#pragma once

#include <cuda_pipeline_primitives.h>

#include <cstddef>
#include <cstdint>

#include "cuda/launch_policy.h"
#include "cuda/merge.cuh"
#include "cuda/thread/reductions.h"
#include "cuda/thread/transforms.h"
#include "cuda/thread/vector.h"
#include "cuda/thread/walk.h"

namespace torchbn::cuda {

// What a block does with its unit, the part of a channel or of some neighbouring ones: it sums it
// up and, when the sums are complete, transforms it, from copies in shared memory.
//
// What is computed is a pass, a type: the tensors it reads, the reduction and the transform over
// them or their copies, and what finishing a channel means.

// Every thread has slots for its own vectors, `pitch` vectors apart and next to its neighbours': so
// it waits for no other, and a warp's accesses meet no bank conflict.
template <typename Tiling>
__device__ int first_slot(const Tiling& tiling, int thread) {
  return thread * tiling.width;
}
template <typename Tiling>
__device__ int slot_distance(const Tiling& tiling) {
  return tiling.pitch() * tiling.width;
}

// One vector on its way to shared memory. It is there when its thread has waited for its copies.
// Hardware copies 4, 8 or 16 bytes at once; others pass through registers.
template <int kWidth, typename T>
__device__ void copy_vector(T* to, const T* from) {
  constexpr size_t kBytes = sizeof(T) * kWidth;
  if constexpr (kBytes >= 4)
    __pipeline_memcpy_async(to, from, kBytes);
  else
    store_vector(to, load_vector<T, kWidth>(from));
}

// Brings all vectors of a thread to its slots before the first of them is taken: all that the block
// holds is under way at once, where other blocks on the multiprocessor have something else to do.
template <typename Pass, typename Tiling, typename Walk>
class AllAtOnce {
 public:
  template <typename SlotsOf>
  __device__ AllAtOnce(const Pass& pass, const SlotsOf& slots_of, int, const Tiling& tiling,
                       const Walk& walk, int thread)
      : copies_(pass.reduction(slots_of)),
        from_(first_slot(tiling, thread)),
        distance_(slot_distance(tiling)) {
    for (int t = 0; t < Pass::kTensors; ++t) {
      auto* slot = slots_of(t) + from_;
      Walk ahead = walk;
#pragma unroll 4
      for (; ahead.left > 0; --ahead.left) {
        copy_vector<Pass::Reduction::kVectorWidth>(slot, pass.tensor(t) + ahead.next);
        ahead.step(tiling);
        slot += distance_;
      }
    }
    __pipeline_commit();
    __pipeline_wait_prior(0);
  }

  // Shared memory answers soon.
  static __device__ constexpr int vectors(int useful) {
    return useful > 1 ? useful / 2 : 1;
  }
  __device__ auto load(const typename Pass::Reduction&, int64_t) {
    const auto item = copies_.load(from_);
    from_ += distance_;
    return item;
  }
  template <typename Item>
  __device__ void take(const Item&) const {}

 private:
  typename Pass::Reduction copies_;
  int from_;
  int distance_;
};

// How many vectors of every tensor are so many bytes. More of them than eight only take registers.
template <typename Pass>
TORCHBN_HOST_DEVICE constexpr int vectors_in(int bytes) {
  const int vectors = bytes / (Pass::kTensors * Pass::Reduction::kVectorWidth *
                               static_cast<int>(sizeof(typename Pass::Value)));
  return vectors < 8 ? vectors : 8;
}

// What a thread has under way where all blocks read at once. While it transforms there are no sums
// in its registers.
template <typename Pass>
inline constexpr int kVectorsSummed = vectors_in<Pass>(64);
template <typename Pass>
inline constexpr int kVectorsReadAgain = vectors_in<Pass>(64 * Pass::kTensors);

// Reads from the tensors, and leaves copies of a thread's first vectors in its slots.
template <typename Pass, typename Tiling, typename Walk>
class FirstOnesKept {
 public:
  template <typename SlotsOf>
  __device__ FirstOnesKept(const Pass&, const SlotsOf& slots_of, int slots, const Tiling& tiling,
                           const Walk&, int thread)
      : to_(first_slot(tiling, thread)), distance_(slot_distance(tiling)), left_(slots) {
    for (int t = 0; t < Pass::kTensors; ++t) slots_[t] = slots_of(t);
  }

  static __device__ constexpr int vectors(int) { return kVectorsSummed<Pass>; }
  __device__ auto load(const typename Pass::Reduction& reduction, int64_t offset) {
    return reduction.load(offset);
  }
  template <typename Item>
  __device__ void take(const Item& item) {
    if (left_ <= 0) return;
    Pass::keep(slots_, to_, item);
    to_ += distance_;
    --left_;
  }

 private:
  typename Pass::Value* slots_[Pass::kTensors];
  int to_;
  int distance_;
  int left_;
};

// Merges the sums of each plane's values to the first of them, a warp to a plane.
template <typename Sums>
__device__ void merge_planes(const ChannelsLastTiling& tiling, Sums* shared) {
  const int plane = static_cast<int>(tiling.plane);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int begin = static_cast<int>(threadIdx.x) / 32 * plane; begin < tiling.merged_width;
       begin += kBlock / 32 * plane) {
    Sums sums;
    for (int i = lane; i < plane; i += 32) sums.merge(shared[in_stack(begin + i)]);
    sums = merge_lanes(sums, 32);
    if (lane == 0) shared[in_stack(begin)] = sums;
  }
}

// What the threads of a block have summed up, merged to one value per channel of the group, `plane`
// values apart in `shared`. Valid for the block after its next barrier.
template <typename Sums>
__device__ void merge_unit(const Sums& own, const ChannelsFirstTiling&, Sums* shared) {
  const Sums sums = merge_block(own, shared);
  if (threadIdx.x == 0) shared[0] = sums;
}
template <typename Reduction>
__device__ void merge_unit(const LaneSums<Reduction>& own, const ChannelsLastTiling& tiling,
                           typename Reduction::Sums* shared) {
  merge_columns(own, tiling, shared);
  if (tiling.plane > 1) merge_planes(tiling, shared);
}

// Where a block keeps its part of a tensor, in its dynamic shared memory.
template <typename Pass>
__device__ typename Pass::Value* slots_of(unsigned char* storage, const OnChipLaunch& numbers,
                                          int tensor) {
  return reinterpret_cast<typename Pass::Value*>(storage + tensor * numbers.tensor_bytes);
}

// Sums up a unit of all tensors. All threads of the block take part, also those whose walk is
// empty; the sums are as merge_unit() leaves them.
template <template <typename...> typename Source, typename Pass, typename SlotsOf, typename Tiling,
          typename Walk, typename Sums>
__device__ void sum_unit(const Pass& pass, const SlotsOf& slots_of, int slots, const Tiling& tiling,
                         const Walk& walk, int thread, Sums* sums) {
  const auto tensors = [&](int tensor) { return pass.tensor(tensor); };
  const Source<Pass, Tiling, Walk> source(pass, slots_of, slots, tiling, walk, thread);
  merge_unit(accumulate(pass.reduction(tensors), source, tiling, walk), tiling, sums);
}

// Transforms what a thread has of a unit, once it is summed up. Comes first what there is no copy
// of, unless kAll are there: what was read last the L2 cache may still hold.
template <bool kAll, typename Pass, typename SlotsOf, typename Coefficients, typename Tiling,
          typename Walk>
__device__ void transform_unit(const Pass& pass, const SlotsOf& slots_of, int slots,
                               const Coefficients* coefficients, int64_t first_channel,
                               const Tiling& tiling, const Walk& walk, Unit unit, int thread) {
  if (walk.empty()) return;
  const auto tensors = [&](int tensor) { return pass.tensor(tensor); };
  const auto in_place = pass.transform(tensors, coefficients, first_channel);
  const auto of_lanes = coefficients_of(in_place, tiling, walk);
  transform_short(in_place, tiling, walk, of_lanes);
  if constexpr (!kAll)
    transform_vectors<kVectorsReadAgain<Pass>>(
        in_place, tiling, BackwardWalk<Walk>(walk, tiling, unit, thread, slots), of_lanes);
  transform_vectors<Pass::Transform::kVectors>(
      pass.transform(slots_of, coefficients, first_channel), tiling,
      KeptWalk<Walk>(walk, first_slot(tiling, thread), slot_distance(tiling), slots), of_lanes);
}

}  // namespace torchbn::cuda
