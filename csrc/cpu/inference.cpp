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
  // `width` is that of a table, or the number of channels.
  Operation(const InferenceProblem& problem, int64_t width)
      : problem_(problem), maps_(problem.extent.channels, width) {
    // A channel takes about as long as mapping 8 elements: only many of them are worth a parallel
    // region of their own.
    Team().for_items(problem.extent.channels, 8, [&](int64_t begin, int64_t end) {
      const vec::ChannelRange channels{begin, end - begin};
      maps_.set(channels, [&](const Affine<Compute<T>*>& maps) {
        vec_.finish_inference(problem, channels, maps);
      });
    });
  }

  // Channels first.
  void map_runs(int64_t channel, int64_t offset, const vec::Strip& strip) const {
    vec_.affine(x_ + offset, y_ + offset, strip, maps_.from(channel), origin_);
  }
  // Channels last.
  void map_columns(int64_t offset, const vec::Strip& strip, int64_t column) const {
    vec_.column_affine(x_ + offset, y_ + offset, strip, maps_.from(column), origin_);
  }

 private:
  const InferenceProblem& problem_;
  const vec::Origin origin_ = inference_origin(problem_.extent, sizeof(T));
  const vec::Primitives<T>& vec_ = vec::primitives<T>();
  const T* x_ = static_cast<const T*>(problem_.input);
  T* y_ = static_cast<T*>(problem_.output);
  AffineMaps<Compute<T>> maps_;
};

}  // namespace

void inference(const InferenceProblem& problem) {
  with_type(problem.dtype, [&]<typename T>(T) {
    if (problem.extent.layout() == Layout::kChannelsFirst) {
      map_channels_first(problem.extent, Operation<T>(problem, problem.extent.channels));
    } else {
      const Table2d table(problem.extent);
      map_channels_last(table, Operation<T>(problem, table.width));
    }
  });
}

}  // namespace torchbn::cpu
