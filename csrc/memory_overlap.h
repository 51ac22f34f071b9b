#pragma once

#include <ATen/core/Tensor.h>

namespace torchbn {

// Whether two elements of `vector` (rank 0 or 1) share memory, as in an expanded tensor.
bool overlaps_itself(const at::Tensor& vector);

// Whether an element of `vector` (rank 0 or 1) shares memory with one of `other` (any strides).
// Exact: interleaved views of one buffer do not overlap. Known sizes only.
bool overlap(const at::Tensor& vector, const at::Tensor& other);

}  // namespace torchbn
