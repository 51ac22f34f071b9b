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
Affine<Compute<T>> channel_map(const TrainProblem& problem, int64_t channel,
                               const ShiftedSums& sums, double pivot) {
  return for_values_of<T>(finish_training<Compute<T>>(problem, channel, sums, pivot));
}

template <typename T>
class ChannelsFirst {
 public:
  static constexpr int64_t kSummedTensors = 1;
  using Sums = ShiftedSums;
  using Value = Compute<T>;

  explicit ChannelsFirst(const TrainProblem& problem)
      : problem_(problem),
        pivots_(new double[problem.extent.channels]),
        maps_(new Affine<Value>[problem.extent.channels]) {}

  void begin(int64_t channel) { pivots_[channel] = pivot_from(first_.load(channel)); }
  void add(int64_t channel, int64_t offset, const vec::Strip& strip, const vec::Route& route,
           vec::Lanes* sums) const {
    vec_.add_moments(x_ + offset, strip, &pivots_[channel], sums, past_cache_ ? &route : nullptr);
  }
  void finish(int64_t channel, const ShiftedSums& sums) {
    maps_[channel] = channel_map<T>(problem_, channel, sums, pivots_[channel]);
  }
  bool maps_at_once() const { return false; }
  bool maps_afterwards() const { return true; }
  void map(int64_t channel, int64_t offset, const vec::Strip& strip) const {
    vec_.affine(x_ + offset, y_ + offset, strip, &maps_[channel], past_cache_);
  }

 private:
  const TrainProblem& problem_;
  const bool past_cache_ = training_past_cache(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::table().get<T>();
  const T* x_ = static_cast<const T*>(problem_.input);
  T* y_ = static_cast<T*>(problem_.output);
  ChannelVector first_{problem_.input, problem_.extent.spatial, problem_.dtype};
  std::unique_ptr<double[]> pivots_;
  std::unique_ptr<Affine<Value>[]> maps_;
};

template <typename T>
class ChannelsLast {
 public:
  using Sums = ShiftedSums;
  using Value = Compute<T>;

  ChannelsLast(const TrainProblem& problem, const Table2d& table)
      : problem_(problem), pivots_(new double[table.width]), maps_(table.channels, table.width) {
    const ChannelVector first{problem.input, 1, problem.dtype};
    for (int64_t c = 0; c < table.channels; ++c) {
      const double pivot = pivot_from(first.load(c));
      for (int64_t i = c; i < table.width; i += table.channels) pivots_[i] = pivot;
    }
  }

  void add(int64_t offset, const vec::Strip& strip, int64_t column, double* first,
           double* second) const {
    vec_.add_column_moments(x_ + offset, strip, pivots_.get() + column, first, second, origin_);
  }
  void finish(int64_t channel, const ShiftedSums& sums) {
    maps_.set(channel, channel_map<T>(problem_, channel, sums, pivots_[channel]));
  }
  bool maps_at_once() const { return false; }
  bool maps_afterwards() const { return true; }
  void map(int64_t offset, const vec::Strip& strip, int64_t column) const {
    vec_.column_affine(x_ + offset, y_ + offset, strip, maps_.from(column), past_cache_);
  }

 private:
  const TrainProblem& problem_;
  const vec::Origin origin_ = training_origin(problem_.extent, sizeof(T));
  const bool past_cache_ = origin_ != vec::Origin::kCaches;
  const vec::Primitives<T>& vec_ = vec::table().get<T>();
  const T* x_ = static_cast<const T*>(problem_.input);
  T* y_ = static_cast<T*>(problem_.output);
  std::unique_ptr<double[]> pivots_;
  ColumnAffine<Value> maps_;
};

}  // namespace

void train(const TrainProblem& problem) {
  with_type(problem.dtype, [&]<typename T>(T) {
    if (runs_channels_first(problem.extent)) {
      ChannelsFirst<T> operation(problem);
      run_channels_first(problem.extent, sizeof(T), operation);
    } else {
      const Table2d table(problem.extent);
      ChannelsLast<T> operation(problem, table);
      run_channels_last(table, operation);
    }
  });
  if (problem.running.num_batches_tracked != nullptr) ++*problem.running.num_batches_tracked;
}

}  // namespace torchbn::cpu
