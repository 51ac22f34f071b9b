#include <algorithm>
#include <memory>

#include "core/dtype.h"
#include "core/statistics.h"
#include "cpu/caches.h"
#include "cpu/channel_maps.h"
#include "cpu/channels_first.h"
#include "cpu/channels_last.h"
#include "cpu/kernels.h"
#include "cpu/vec/level.h"

namespace torchbn::cpu {
namespace {

template <typename T>
class Operation {
 public:
  static constexpr int64_t kSummedBytes = sizeof(T);

  // Channels first.
  explicit Operation(const TrainProblem& problem) : Operation(problem, problem.extent.channels) {}

  // Of many values the pivot is the middle one of three from all over the channel: were it the one
  // outlier among like values, so many equal squares would be added that their rounding shows.
  void begin(const vec::ChannelRange& channels) {
    constexpr int64_t kMany = int64_t{1} << 16;
    const Extent& e = problem_.extent;
    for (int64_t c = channels.begin; c < channels.begin + channels.size; ++c) {
      Compute<T> value = widen(x_[e.first_value(c)]);
      if (e.count() >= kMany) {
        const Compute<T> middle = widen(x_[e.offset(e.batch / 2, c, e.spatial / 2)]);
        const Compute<T> last = widen(x_[e.offset(e.batch - 1, c, e.spatial - 1)]);
        value = std::clamp(value, std::min(middle, last), std::max(middle, last));
      }
      pivots_[c] = pivot_from(value);
    }
  }
  void add_runs(int64_t channel, int64_t offset, const vec::Strip& strip, const vec::Route& route,
                double* first, double* second) const {
    vec_.add_moments(x_ + offset, strip, &pivots_[channel], first, second,
                     origin_ == vec::Origin::kCaches ? nullptr : &route);
  }
  void map_runs(int64_t channel, int64_t offset, const vec::Strip& strip) const {
    vec_.affine(x_ + offset, y_ + offset, strip, maps_.from(channel), map_origin_);
  }

  // Channels last.
  Operation(const TrainProblem& problem, const Table2d& table) : Operation(problem, table.width) {
    begin({0, table.channels});
    table.repeat(pivots_.get());
  }

  void add_columns(int64_t offset, const vec::Strip& strip, int64_t column, double* first,
                   double* second) const {
    vec_.add_column_moments(x_ + offset, strip, &pivots_[column], first, second, origin_);
  }
  void map_columns(int64_t offset, const vec::Strip& strip, int64_t column) const {
    vec_.column_affine(x_ + offset, y_ + offset, strip, maps_.from(column), map_origin_);
  }

  // Both.
  void finish(const vec::ChannelRange& channels, const double* first, const double* second) {
    maps_.set(channels, [&](const Affine<Compute<T>*>& maps) {
      vec_.finish_training(problem_, channels, first, second, &pivots_[channels.begin], maps);
    });
  }
  bool maps_at_once() const { return false; }
  bool maps_afterwards() const { return true; }

 private:
  Operation(const TrainProblem& problem, int64_t width)
      : problem_(problem), pivots_(new double[width]), maps_(problem.extent.channels, width) {}

  const TrainProblem& problem_;
  const vec::Origin origin_ = training_origin(problem_.extent, sizeof(T));
  const vec::Origin map_origin_ = training_map_origin(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::primitives<T>();
  const T* x_ = static_cast<const T*>(problem_.input);
  T* y_ = static_cast<T*>(problem_.output);
  std::unique_ptr<double[]> pivots_;
  AffineMaps<Compute<T>> maps_;
};

}  // namespace

void train(const TrainProblem& problem) {
  with_type(problem.dtype, [&]<typename T>(T) {
    if (problem.extent.layout() == Layout::kChannelsFirst) {
      Operation<T> operation(problem);
      run_channels_first(problem.extent, operation);
    } else {
      const Table2d table(problem.extent);
      Operation<T> operation(problem, table);
      run_channels_last(table, operation);
    }
  });
  if (problem.running.num_batches_tracked != nullptr) ++*problem.running.num_batches_tracked;
}

}  // namespace torchbn::cpu
