#pragma once

#include <cstdint>

#include "core/affine.h"
#include "core/dtype.h"
#include "core/gradient.h"
#include "core/problem.h"

namespace torchbn::cpu::vec {

// The inner loops, compiled once per instruction set. AVX2 and AVX-512 give the same bits: sums
// live in kLanes lanes whatever the register width, products are fused with the sums they are added
// to, and tails are computed as bodies are. The baseline differs in one thing, it rounds such
// products. What is computed per channel has the same bits everywhere.
inline constexpr int kLanes = 16;

// At least as many columns as are stored together.
inline constexpr int kRepeatedColumns = 2 * kLanes;

// Columns that are summed piece by piece, each piece but the last a multiple of so many rows, have
// the bits of columns that are summed in one go.
inline constexpr int64_t kRowsTogether = 64;

// `rows` rows, `stride` elements apart, of `runs` runs each, `spacing` apart, of `length`
// contiguous elements. A run belongs to one channel, the runs of a row to neighbouring ones.
struct Strip {
  int64_t rows;
  int64_t length;
  int64_t stride;
  int64_t runs = 1;
  int64_t spacing = 0;
};

// Neighbouring channels.
struct ChannelRange {
  int64_t begin;
  int64_t size;
};

// How reading goes on from a strip, which may be a piece of longer rows: to their ends, through the
// rows that follow, and from the last of these to others.
struct Route {
  int64_t width;  // of the rows
  int64_t begin;  // of the strip in its first row
  int64_t rows;   // left, with the strip's own
  int64_t jump;   // from where one more row would begin to where reading goes on, 0 if it ends
};

// Where the operands lie: in caches, in memory too, or so many of them in memory that no cache
// helps.
enum class Origin : uint8_t { kCaches, kBoth, kMemory };

// For callers: the outputs must not overlap the inputs, since the end of a run is written twice;
// and maps from memory store their results past the caches, which the caller orders (store_fence).
//
// Sums prefetch along the route, or the rows to come, but not from caches: where the operands lie
// near the core, that only takes time, up to half of a sum's.
template <typename T>
struct Primitives {
  using Value = Compute<T>;

  // A strip of strip.runs channels: one pivot, sum and map for each. Maps are arrays of each of
  // their coefficients. Which lane an element goes to follows from the shape of the strip; added to
  // the sum is what all lanes make in the end, the upper half onto the lower one again and again.
  // sum(x - pivot), sum((x - pivot)^2)
  void (*add_moments)(const T* x, const Strip& strip, const double* pivots, double* first,
                      double* second, const Route* prefetched);
  // sum(dy), sum(dy * (x - mean))
  void (*add_gradient)(const T* dy, const T* x, const Strip& strip, const double* means,
                       double* first, double* second, const Route* prefetched);
  void (*affine)(const T* x, T* y, const Strip& strip, const Affine<const Value*>& maps,
                 Origin origin);
  void (*gradient)(const T* dy, const T* x, T* dx, const Strip& strip,
                   const GradientCoefficients<const Value*>& maps, Origin origin);

  // A strip of strip.length channels, of one run: one pivot, sum and map per column. The
  // arrays have room for at least kLanes columns; where rows lie one behind the other, the
  // coefficients' go on with those of the first columns, kRepeatedColumns of them.
  void (*add_column_moments)(const T* x, const Strip& strip, const double* pivots, double* first,
                             double* second, Origin origin);
  void (*add_column_gradient)(const T* dy, const T* x, const Strip& strip, const double* means,
                              double* first, double* second, Origin origin);
  void (*column_affine)(const T* x, T* y, const Strip& strip, const Affine<const Value*>& maps,
                        Origin origin);
  void (*column_gradient)(const T* dy, const T* x, T* dx, const Strip& strip,
                          const GradientCoefficients<const Value*>& maps, Origin origin);

  // core/finish_channel.h for a range of channels, to whose first one the other arguments point.
  void (*finish_training)(const TrainProblem& problem, const ChannelRange& channels,
                          const double* first, const double* second, const double* pivots,
                          const Affine<Value*>& maps);
  void (*finish_inference)(const InferenceProblem& problem, const ChannelRange& channels,
                           const Affine<Value*>& maps);
  void (*store_parameters)(const BackwardProblem& problem, const ChannelRange& channels,
                           const double* first, const double* second);
  void (*training_gradient)(const BackwardProblem& problem, const ChannelRange& channels,
                            const double* first, const double* second,
                            const GradientCoefficients<Value*>& maps);
  void (*evaluation_gradient)(const BackwardProblem& problem, const ChannelRange& channels,
                              const Affine<Value*>& maps);
};

// Those of every type.
struct PrimitiveSet : Primitives<float>,
                      Primitives<double>,
                      Primitives<BFloat16>,
                      Primitives<Float16> {
  template <typename T>
  const Primitives<T>& get() const {
    return *this;
  }
};

}  // namespace torchbn::cpu::vec
