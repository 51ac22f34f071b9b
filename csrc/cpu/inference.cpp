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
Affine<Compute<T>> channel_map(const InferenceProblem& problem, int64_t channel) {
  return for_values_of<T>(finish_inference<Compute<T>>(problem, channel));
}

// Runs set(channel) for every channel, which takes about as long as mapping 24 elements: only many
// of them are worth a parallel region of their own.
template <typename Set>
void for_channels(int64_t channels, const Set& set) {
  Team().for_items(channels, 24, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) set(c);
  });
}

template <typename T>
class ChannelsFirst {
 public:
  using Value = Compute<T>;

  explicit ChannelsFirst(const InferenceProblem& problem)
      : problem_(problem), maps_(new Affine<Value>[problem.extent.channels]) {
    for_channels(problem.extent.channels,
                 [&](int64_t c) { maps_[c] = channel_map<T>(problem, c); });
  }

  void map(int64_t channel, int64_t offset, const vec::Strip& strip) const {
    vec_.affine(x_ + offset, y_ + offset, strip, &maps_[channel], past_cache_);
  }

 private:
  const InferenceProblem& problem_;
  const bool past_cache_ = inference_past_cache(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::table().get<T>();
  const T* x_ = static_cast<const T*>(problem_.input);
  T* y_ = static_cast<T*>(problem_.output);
  std::unique_ptr<Affine<Value>[]> maps_;
};

template <typename T>
class ChannelsLast {
 public:
  using Value = Compute<T>;

  ChannelsLast(const InferenceProblem& problem, const Table2d& table)
      : problem_(problem), maps_(table.channels, table.width) {
    for_channels(table.channels, [&](int64_t c) { maps_.set(c, channel_map<T>(problem, c)); });
  }

  void map(int64_t offset, const vec::Strip& strip, int64_t column) const {
    vec_.column_affine(x_ + offset, y_ + offset, strip, maps_.from(column), past_cache_);
  }

 private:
  const InferenceProblem& problem_;
  const bool past_cache_ = inference_past_cache(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::table().get<T>();
  const T* x_ = static_cast<const T*>(problem_.input);
  T* y_ = static_cast<T*>(problem_.output);
  ColumnAffine<Value> maps_;
};

}  // namespace

void inference(const InferenceProblem& problem) {
  with_type(problem.dtype, [&]<typename T>(T) {
    if (runs_channels_first(problem.extent)) {
      const ChannelsFirst<T> operation(problem);
      map_channels_first(problem.extent, operation);
    } else {
      const Table2d table(problem.extent);
      const ChannelsLast<T> operation(problem, table);
      map_channels_last(table, operation);
    }
  });
}

}  // namespace torchbn::cpu
