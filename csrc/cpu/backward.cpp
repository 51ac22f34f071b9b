#include <algorithm>
#include <memory>

#include "core/dtype.h"
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
  static constexpr int64_t kSummedBytes = 2 * sizeof(T);

  // Channels first.
  explicit Operation(const BackwardProblem& problem)
      : Operation(problem, problem.extent.channels) {}

  void begin(const vec::ChannelRange&) const {}
  void add_runs(int64_t channel, int64_t offset, const vec::Strip& strip, const vec::Route& route,
                double* first, double* second) const {
    vec_.add_gradient(dy_ + offset, summed_x_ + offset, strip, means_ + channel, first, second,
                      prefetches_ ? &route : nullptr);
  }
  void map_runs(int64_t channel, int64_t offset, const vec::Strip& strip) const {
    if (problem_.training)
      vec_.gradient(dy_ + offset, x_ + offset, dx_ + offset, strip, training_maps_.from(channel),
                    map_origin_);
    else
      vec_.affine(dy_ + offset, dx_ + offset, strip, evaluation_maps_.from(channel), map_origin_);
  }

  // Channels last.
  Operation(const BackwardProblem& problem, const Table2d& table)
      : Operation(problem, table.width) {
    if (table.copies == 1) return;
    copied_means_.reset(new double[table.width]);
    std::copy_n(problem.mean, table.channels, copied_means_.get());
    table.repeat(copied_means_.get());
    means_ = copied_means_.get();
  }

  void add_columns(int64_t offset, const vec::Strip& strip, int64_t column, double* first,
                   double* second) const {
    vec_.add_column_gradient(dy_ + offset, summed_x_ + offset, strip, means_ + column, first,
                             second, origin_);
  }
  void map_columns(int64_t offset, const vec::Strip& strip, int64_t column) const {
    if (problem_.training)
      vec_.column_gradient(dy_ + offset, x_ + offset, dx_ + offset, strip,
                           training_maps_.from(column), map_origin_);
    else
      vec_.column_affine(dy_ + offset, dx_ + offset, strip, evaluation_maps_.from(column),
                         map_origin_);
  }

  // Both.
  void finish(const vec::ChannelRange& channels, const double* first, const double* second) {
    vec_.store_parameters(problem_, channels, first, second);
    if (!maps_afterwards()) return;
    training_maps_.set(channels, [&](const GradientCoefficients<Compute<T>*>& maps) {
      vec_.training_gradient(problem_, channels, first, second, maps);
    });
  }
  bool maps_at_once() const { return dx_ != nullptr && !problem_.training; }
  bool maps_afterwards() const { return problem_.maps_after_sums(); }

 private:
  Operation(const BackwardProblem& problem, int64_t width)
      : problem_(problem),
        training_maps_(problem.extent.channels, problem.training ? width : 0),
        evaluation_maps_(problem.extent.channels, problem.training ? 0 : width) {
    if (!maps_at_once()) return;
    const vec::ChannelRange all{0, problem.extent.channels};
    evaluation_maps_.set(all, [&](const Affine<Compute<T>*>& maps) {
      vec_.evaluation_gradient(problem, all, maps);
    });
  }

  const BackwardProblem& problem_;
  const vec::Origin origin_ = training_origin(problem_.extent, sizeof(T));
  // Of one image both tensors are streams, which the hardware follows better alone: up to twice as
  // fast in a last-level cache.
  const bool prefetches_ = origin_ != vec::Origin::kCaches && problem_.extent.batch > 1;
  const vec::Origin map_origin_ = training_map_origin(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::primitives<T>();
  const T* dy_ = static_cast<const T*>(problem_.grad_output);
  const T* x_ = static_cast<const T*>(problem_.input);
  // Where only sum(dy) is wanted any values do for the other sum.
  const T* summed_x_ = problem_.reads_input() ? x_ : dy_;
  T* dx_ = static_cast<T*>(problem_.grad_input);
  const double* means_ = problem_.mean;  // of the channels, or the columns of a table
  std::unique_ptr<double[]> copied_means_;
  GradientMaps<Compute<T>> training_maps_;
  AffineMaps<Compute<T>> evaluation_maps_;
};

}  // namespace

void backward(const BackwardProblem& problem) {
  with_type(problem.dtype, [&]<typename T>(T) {
    if (problem.extent.layout() == Layout::kChannelsFirst) {
      Operation<T> operation(problem);
      if (problem.needs_sums())
        run_channels_first(problem.extent, operation);
      else if (problem.grad_input != nullptr)
        map_channels_first(problem.extent, operation);
    } else {
      const Table2d table(problem.extent);
      Operation<T> operation(problem, table);
      if (problem.needs_sums())
        run_channels_last(table, operation);
      else if (problem.grad_input != nullptr)
        map_channels_last(table, operation);
    }
  });
}

}  // namespace torchbn::cpu
