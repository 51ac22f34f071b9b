#include <memory>

#include "core/finish_channel.h"
#include "cpu/channel_maps.h"
#include "cpu/channels_first.h"
#include "cpu/channels_last.h"
#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/vec/level.h"

namespace torchbn::cpu {
namespace {

template <typename T>
GradientCoefficients<Compute<T>> training_map(const BackwardProblem& problem, int64_t channel,
                                              const GradientSums& sums) {
  return for_values_of<T>(training_gradient<Compute<T>>(problem, channel, sums));
}

template <typename T>
Affine<Compute<T>> evaluation_map(const BackwardProblem& problem, int64_t channel) {
  return for_values_of<T>(evaluation_gradient<Compute<T>>(problem, channel));
}

template <typename T>
class ChannelsFirst {
 public:
  static constexpr int64_t kSummedTensors = 2;
  using Sums = GradientSums;
  using Value = Compute<T>;

  explicit ChannelsFirst(const BackwardProblem& problem) : problem_(problem) {
    const int64_t channels = problem.extent.channels;
    if (!maps()) return;
    if (problem.training) {
      training_maps_.reset(new GradientCoefficients<Value>[channels]);
    } else {
      evaluation_maps_.reset(new Affine<Value>[channels]);
      for (int64_t c = 0; c < channels; ++c) evaluation_maps_[c] = evaluation_map<T>(problem, c);
    }
  }

  void begin(int64_t) const {}
  void add(int64_t channel, int64_t offset, const vec::Strip& strip, const vec::Route& route,
           vec::Lanes* sums) const {
    vec_.add_gradient(dy_ + offset, summed_x_ + offset, strip, &problem_.mean[channel], sums,
                      past_cache_ ? &route : nullptr);
  }
  void finish(int64_t channel, const GradientSums& sums) {
    store_parameters(problem_, channel, sums);
    if (training_maps_) training_maps_[channel] = training_map<T>(problem_, channel, sums);
  }
  bool maps() const { return dx_ != nullptr; }
  bool maps_at_once() const { return maps() && !problem_.training; }
  bool maps_afterwards() const { return maps() && problem_.training; }
  void map(int64_t channel, int64_t offset, const vec::Strip& strip) const {
    if (problem_.training)
      vec_.gradient(dy_ + offset, x_ + offset, dx_ + offset, strip, &training_maps_[channel],
                    past_cache_);
    else
      vec_.affine(dy_ + offset, dx_ + offset, strip, &evaluation_maps_[channel], past_cache_);
  }

 private:
  const BackwardProblem& problem_;
  const bool past_cache_ = training_past_cache(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::table().get<T>();
  const T* dy_ = static_cast<const T*>(problem_.grad_output);
  const T* x_ = static_cast<const T*>(problem_.input);
  // Where only sum(dy) is wanted any values do for the other sum.
  const T* summed_x_ = problem_.reads_input() ? x_ : dy_;
  T* dx_ = static_cast<T*>(problem_.grad_input);
  std::unique_ptr<GradientCoefficients<Value>[]> training_maps_;
  std::unique_ptr<Affine<Value>[]> evaluation_maps_;
};

template <typename T>
class ChannelsLast {
 public:
  using Sums = GradientSums;
  using Value = Compute<T>;

  ChannelsLast(const BackwardProblem& problem, const Table2d& table)
      : problem_(problem),
        means_(new double[table.width]),
        training_maps_(table.channels, problem.training ? table.width : 0),
        evaluation_maps_(table.channels, problem.training ? 0 : table.width) {
    for (int64_t c = 0; c < table.channels; ++c) {
      for (int64_t i = c; i < table.width; i += table.channels) means_[i] = problem.mean[c];
      if (!problem.training) evaluation_maps_.set(c, evaluation_map<T>(problem, c));
    }
  }

  void add(int64_t offset, const vec::Strip& strip, int64_t column, double* first,
           double* second) const {
    vec_.add_column_gradient(dy_ + offset, summed_x_ + offset, strip, means_.get() + column, first,
                             second, origin_);
  }
  void finish(int64_t channel, const GradientSums& sums) {
    store_parameters(problem_, channel, sums);
    if (!maps_afterwards()) return;
    training_maps_.set(channel, training_map<T>(problem_, channel, sums));
  }
  bool maps() const { return dx_ != nullptr; }
  bool maps_at_once() const { return maps() && !problem_.training; }
  bool maps_afterwards() const { return maps() && problem_.training; }
  void map(int64_t offset, const vec::Strip& strip, int64_t column) const {
    if (problem_.training)
      vec_.column_gradient(dy_ + offset, x_ + offset, dx_ + offset, strip,
                           training_maps_.from(column), past_cache_);
    else
      vec_.column_affine(dy_ + offset, dx_ + offset, strip, evaluation_maps_.from(column),
                         past_cache_);
  }

 private:
  const BackwardProblem& problem_;
  const vec::Origin origin_ = training_origin(problem_.extent, sizeof(T));
  const bool past_cache_ = origin_ != vec::Origin::kCaches;
  const vec::Primitives<T>& vec_ = vec::table().get<T>();
  const T* dy_ = static_cast<const T*>(problem_.grad_output);
  const T* x_ = static_cast<const T*>(problem_.input);
  // Where only sum(dy) is wanted any values do for the other sum.
  const T* summed_x_ = problem_.reads_input() ? x_ : dy_;
  T* dx_ = static_cast<T*>(problem_.grad_input);
  std::unique_ptr<double[]> means_;
  ColumnGradient<Value> training_maps_;
  ColumnAffine<Value> evaluation_maps_;
};

}  // namespace

void backward(const BackwardProblem& problem) {
  with_type(problem.dtype, [&]<typename T>(T) {
    if (runs_channels_first(problem.extent)) {
      ChannelsFirst<T> operation(problem);
      if (problem.needs_sums())
        run_channels_first(problem.extent, sizeof(T), operation);
      else if (operation.maps())
        map_channels_first(problem.extent, operation);
    } else {
      const Table2d table(problem.extent);
      ChannelsLast<T> operation(problem, table);
      if (problem.needs_sums())
        run_channels_last(table, operation);
      else if (operation.maps())
        map_channels_last(table, operation);
    }
  });
}

}  // namespace torchbn::cpu
