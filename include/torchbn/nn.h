#pragma once

#include <ostream>

#include <torch/nn/modules/batchnorm.h>
#include <torchbn/batch_norm.h>

// torch::nn's batch norms on torchbn's operator. This header alone includes more of torch than
// tensors.
namespace torchbn::nn {

/// What BatchNorm1d, BatchNorm2d and BatchNorm3d share. Options, parameters and buffers are those
/// of torch::nn's modules of these names, so that either loads what the other has saved. They are
/// no subclasses of those: Module::as<torch::nn::BatchNorm2d>() does not find them.
template <size_t D, typename Derived>
class BatchNormImplBase : public torch::nn::BatchNormImplBase<D, Derived> {
  using Base = torch::nn::BatchNormImplBase<D, Derived>;

 public:
  using Base::Base;

  /// The result has the input's shape, dtype and memory format. In training, and where the module
  /// tracks no statistics, the batch's are used. Throws c10::Error as batch_norm() does, and where
  /// the input has another number of dimensions, before anything is modified.
  at::Tensor forward(const at::Tensor& input) {
    _check_input_dim(input);
    const bool tracks = this->options.track_running_stats();
    const auto tracked = [&](const at::Tensor& buffer) { return tracks ? buffer : at::Tensor(); };
    return batch_norm(input, this->weight, this->bias, tracked(this->running_mean),
                      tracked(this->running_var), this->is_training() || !tracks,
                      this->options.momentum(), this->options.eps(),
                      tracked(this->num_batches_tracked));
  }

  /// As torch::nn's, but that num_batches_tracked stays int64: a half type counts to 2048 or 256.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override {
    convert([&] { Base::to(device, dtype, non_blocking); });
  }
  void to(torch::Dtype dtype, bool non_blocking = false) override {
    convert([&] { Base::to(dtype, non_blocking); });
  }
  using Base::to;

  void pretty_print(std::ostream& stream) const override {
    const torch::nn::BatchNormOptions& given = this->options;
    stream << std::boolalpha << "torchbn::nn::BatchNorm" << D << "d(" << given.num_features()
           << ", eps=" << given.eps() << ", momentum=";
    if (given.momentum().has_value())
      stream << *given.momentum();
    else
      stream << "None";
    stream << ", affine=" << given.affine()
           << ", track_running_stats=" << given.track_running_stats() << ')';
  }

 protected:
  void _check_input_dim(const at::Tensor& input) override {
    constexpr int64_t kLeast = D == 1 ? 2 : D + 2;
    constexpr int64_t kMost = D + 2;
    TORCH_CHECK(input.dim() >= kLeast && input.dim() <= kMost, "expected ", kLeast, "D ",
                kLeast == kMost ? "" : "or 3D ", "input (got ", input.dim(), "D input)");
  }

 private:
  template <typename F>
  void convert(const F& convert_all) {
    at::Tensor& counter = this->num_batches_tracked;
    const at::Tensor count = counter.defined() ? counter.detach() : at::Tensor();
    convert_all();
    if (count.defined()) counter.set_data(count.to(counter.device()));
  }
};

/// [N, C] or [N, C, L] to the same shape
class BatchNorm1dImpl : public BatchNormImplBase<1, BatchNorm1dImpl> {
 public:
  using BatchNormImplBase<1, BatchNorm1dImpl>::BatchNormImplBase;
};
TORCH_MODULE(BatchNorm1d);

/// [N, C, H, W] to the same shape
class BatchNorm2dImpl : public BatchNormImplBase<2, BatchNorm2dImpl> {
 public:
  using BatchNormImplBase<2, BatchNorm2dImpl>::BatchNormImplBase;
};
TORCH_MODULE(BatchNorm2d);

/// [N, C, D, H, W] to the same shape
class BatchNorm3dImpl : public BatchNormImplBase<3, BatchNorm3dImpl> {
 public:
  using BatchNormImplBase<3, BatchNorm3dImpl>::BatchNormImplBase;
};
TORCH_MODULE(BatchNorm3d);

}  // namespace torchbn::nn
