#include "memory_overlap.h"

#include <algorithm>

#include <c10/util/SmallVector.h>

namespace torchbn {

namespace {

struct Dimension {
  int64_t stride;  // bytes
  int64_t size;
};

// The bytes from the first to the last element.
int64_t reach_of(const at::Tensor& tensor) {
  int64_t reach = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) reach += tensor.stride(d) * (tensor.size(d) - 1);
  return reach * tensor.element_size();
}

using Dimensions = c10::SmallVector<Dimension, 5>;

// The dimensions along which addresses change, by falling stride.
Dimensions dimensions_of(const at::Tensor& tensor) {
  Dimensions dimensions;
  const int64_t item = tensor.element_size();
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.size(d) <= 1 || tensor.stride(d) == 0) continue;
    dimensions.push_back({tensor.stride(d) * item, tensor.size(d)});
  }
  std::sort(dimensions.begin(), dimensions.end(),
            [](const Dimension& a, const Dimension& b) { return a.stride > b.stride; });
  return dimensions;
}

// Whether some element's offset lies in [low, high]. `reach` is that of the dimensions from `d` on.
// Where strides nest, as in any tensor that is not made to overlap itself, one or two indices of a
// dimension qualify, so that this takes as many steps as there are dimensions.
bool contains_offset(const Dimensions& dimensions, size_t d, int64_t reach, int64_t low,
                     int64_t high) {
  if (high < 0 || low > reach) return false;
  if (d == dimensions.size()) return true;
  const auto [stride, size] = dimensions[d];
  const int64_t rest = reach - stride * (size - 1);
  const int64_t first = std::max<int64_t>(0, (low - rest + stride - 1) / stride);
  const int64_t last = std::min(size - 1, high / stride);
  for (int64_t i = first; i <= last; ++i) {
    if (contains_offset(dimensions, d + 1, rest, low - i * stride, high - i * stride)) return true;
  }
  return false;
}

// Fake tensors have no addresses, nor have those under torch.func.functionalize.
bool has_address(const at::Tensor& tensor) {
  return !tensor.is_meta() && tensor.storage().data() != nullptr;
}

// Within one storage the offset says as much as the address.
int64_t address(const at::Tensor& tensor) {
  const int64_t offset = tensor.storage_offset() * tensor.element_size();
  return has_address(tensor) ? reinterpret_cast<int64_t>(tensor.storage().data()) + offset : offset;
}

}  // namespace

bool overlaps_itself(const at::Tensor& vector) {
  return vector.dim() == 1 && vector.size(0) > 1 && vector.stride(0) == 0;
}

bool overlap(const at::Tensor& vector, const at::Tensor& other) {
  if (vector.numel() == 0 || other.numel() == 0) return false;
  if (!(has_address(vector) && has_address(other)) && !vector.is_alias_of(other)) return false;

  const int64_t reach = reach_of(other);
  const int64_t distance = address(vector) - address(other);
  const int64_t vector_item = vector.element_size();
  const int64_t other_item = other.element_size();
  // As good as every call ends here.
  if (distance + reach_of(vector) + vector_item <= 0 || distance >= reach + other_item)
    return false;

  const Dimensions ours = dimensions_of(vector);
  const Dimensions theirs = dimensions_of(other);
  const int64_t step = ours.empty() ? 0 : ours.front().stride;
  const int64_t steps = ours.empty() ? 1 : ours.front().size;
  for (int64_t i = 0; i < steps; ++i) {
    const int64_t offset = distance + i * step;
    if (contains_offset(theirs, 0, reach, offset - other_item + 1, offset + vector_item - 1))
      return true;
  }
  return false;
}

}  // namespace torchbn
