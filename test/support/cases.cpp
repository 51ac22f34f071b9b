#include "support/cases.h"

#include <numeric>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/randn.h>

namespace torchbn::test {

bool has_gpu() {
  return at::hasCUDA();
}

std::vector<at::Device> devices() {
  return {at::Device(at::kCPU), at::Device(at::kCUDA, 0)};
}

std::string name_of(at::Device device) {
  return device.is_cuda() ? "Cuda" : device.is_meta() ? "Meta" : "Cpu";
}

Threads::Threads(int count) : before_(at::get_num_threads()) {
  at::set_num_threads(count);
}
Threads::~Threads() {
  at::set_num_threads(before_);
}

const std::vector<Memory>& all_memory() {
  static const std::vector<Memory> all = {Memory::kContiguous, Memory::kChannelsLast,
                                          Memory::kTransposed, Memory::kSliced, Memory::kExpanded};
  return all;
}

std::string name_of(Memory memory) {
  switch (memory) {
    case Memory::kContiguous:
      return "Contiguous";
    case Memory::kChannelsLast:
      return "ChannelsLast";
    case Memory::kTransposed:
      return "Transposed";
    case Memory::kSliced:
      return "Sliced";
    case Memory::kExpanded:
      return "Expanded";
  }
  return "";
}

namespace {

// `values` with its axes in memory in the given order, slowest first.
at::Tensor stored_in_order(const at::Tensor& values, const std::vector<int64_t>& order) {
  std::vector<int64_t> back(order.size());
  for (size_t i = 0; i < order.size(); ++i) back[order[i]] = static_cast<int64_t>(i);
  return values.permute(order).contiguous().permute(back);
}

}  // namespace

at::Tensor laid_out(const at::Tensor& values, Memory memory) {
  const int64_t rank = values.dim();
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  switch (memory) {
    case Memory::kContiguous:
      return values.contiguous();
    case Memory::kChannelsLast:
      order.erase(order.begin() + 1);
      order.push_back(1);
      return stored_in_order(values, order);
    case Memory::kTransposed:
      return stored_in_order(values, {order.rbegin(), order.rend()});
    case Memory::kSliced: {
      std::vector<int64_t> larger = values.sizes().vec();
      larger.back() = 2 * larger.back() + 1;
      const at::Tensor part = at::empty(larger, values.options()).slice(-1, 1, std::nullopt, 2);
      return part.copy_(values);
    }
    case Memory::kExpanded:
      return values.narrow(0, 0, 1).expand(values.sizes());
  }
  return values;
}

std::string name_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return "Fp32";
    case at::kDouble:
      return "Fp64";
    case at::kBFloat16:
      return "Bf16";
    case at::kHalf:
      return "Fp16";
    default:
      return at::toString(dtype);
  }
}

const std::vector<Types>& all_types() {
  static const std::vector<Types> all = {
      {at::kFloat, at::kFloat},    {at::kDouble, at::kDouble}, {at::kBFloat16, at::kBFloat16},
      {at::kBFloat16, at::kFloat}, {at::kHalf, at::kHalf},     {at::kHalf, at::kFloat}};
  return all;
}

std::string name_of(const Types& types) {
  return name_of(types.input) +
         (types.input == types.parameters ? "" : "Params" + name_of(types.parameters));
}

const std::vector<at::ScalarType>& all_dtypes() {
  static const std::vector<at::ScalarType> all = {at::kFloat, at::kDouble, at::kBFloat16,
                                                  at::kHalf};
  return all;
}

std::vector<int64_t> small_shape(int64_t rank) {
  switch (rank) {
    case 2:
      return {13, 7};
    case 3:
      return {4, 5, 11};
    case 4:
      return {3, 5, 4, 7};
    default:
      return {2, 5, 3, 2, 5};
  }
}

at::Tensor normal(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::kDouble);
}

at::Tensor many_normal(at::IntArrayRef shape) {
  const int64_t count = c10::multiply_integers(shape);
  const at::Tensor block = normal({std::min<int64_t>(count, 99991)}, 1);  // a prime
  const int64_t copies = (count + block.numel() - 1) / block.numel();
  return block.repeat({copies}).slice(0, 0, count).view(shape);
}

}  // namespace torchbn::test
