// Times the inner loops of the CPU kernels alone, on one thread: no allocation, no dispatcher.
//
//   primitives_benchmark --benchmark_filter='avx512/bf16/.*moments' --benchmark_repetitions=9
//
// Names are LEVEL/TYPE/PRIMITIVE/SHAPE; those of whole columns are for channels-last tensors. Small
// strips, in the caches near the core, show what the instructions cost, ones of 16 Mi elements what
// memory adds.

#include <benchmark/benchmark.h>

#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/caches.h"
#include "cpu/vec/level.h"

namespace torchbn::cpu::vec {
namespace {

// As aligned as torch's tensors.
template <typename T>
struct Aligned {
  using value_type = T;

  T* allocate(size_t count) {
    return static_cast<T*>(::operator new (count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* from, size_t) { ::operator delete (from, std::align_val_t{64}); }
  bool operator==(const Aligned&) const { return true; }
};
template <typename T>
using Vector = std::vector<T, Aligned<T>>;

// Scattered over [-2, 2): the sums of half types have a slow path for values they do not fit.
template <typename T>
Vector<T> values(int64_t count) {
  Vector<T> result(count);
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(i + 1) * 2654435761u;
    result[i] = round_to<T>(static_cast<float>(bits >> 8) * 0x1p-22f - 2);
  }
  return result;
}

// What a primitive works on.
template <typename T>
struct Operands {
  using Value = Compute<T>;

  explicit Operands(const Strip& s)
      : strip(s), x(values<T>(elements())), dy(x), y(x), columns(s.length + kRepeatedColumns, 1) {}

  int64_t elements() const { return strip.rows * strip.length; }
  Origin origin() const { return inference_origin({strip.rows, strip.length, 1}, sizeof(T)); }
  const Route* prefetched() const { return origin() == Origin::kCaches ? nullptr : &route; }

  Strip strip;
  Route route{strip.length, 0, strip.rows, 0};
  Vector<T> x, dy, y;
  Vector<Value> columns;  // a coefficient for each column
  Vector<double> pivots = Vector<double>(columns.size(), 0.5);
  Vector<double> first = Vector<double>(columns.size());
  Vector<double> second = first;
};

// One primitive: its name, the tensors that it moves and a call.
template <typename T>
struct Primitive {
  const char* name;
  bool columns;
  int tensors;
  void (*call)(const Primitives<T>& p, Operands<T>& o);
};

template <typename T>
const std::vector<Primitive<T>>& all_primitives() {
  using P = const Primitives<T>&;
  using O = Operands<T>&;
  static const std::vector<Primitive<T>> all{
      {"add_moments", false, 1,
       [](P p, O o) {
         p.add_moments(o.x.data(), o.strip, o.pivots.data(), o.first.data(), o.second.data(),
                       o.prefetched());
       }},
      {"add_gradient", false, 2,
       [](P p, O o) {
         p.add_gradient(o.dy.data(), o.x.data(), o.strip, o.pivots.data(), o.first.data(),
                        o.second.data(), o.prefetched());
       }},
      {"affine", false, 2,
       [](P p, O o) {
         const auto c = o.columns.data();
         p.affine(o.x.data(), o.y.data(), o.strip, {c, c, c}, o.origin());
       }},
      {"gradient", false, 3,
       [](P p, O o) {
         const auto c = o.columns.data();
         p.gradient(o.dy.data(), o.x.data(), o.y.data(), o.strip, {c, c, c, c}, o.origin());
       }},
      {"add_column_moments", true, 1,
       [](P p, O o) {
         p.add_column_moments(o.x.data(), o.strip, o.pivots.data(), o.first.data(), o.second.data(),
                              o.origin());
       }},
      {"add_column_gradient", true, 2,
       [](P p, O o) {
         p.add_column_gradient(o.dy.data(), o.x.data(), o.strip, o.pivots.data(), o.first.data(),
                               o.second.data(), o.origin());
       }},
      {"column_affine", true, 2,
       [](P p, O o) {
         const auto c = o.columns.data();
         p.column_affine(o.x.data(), o.y.data(), o.strip, {c, c, c}, o.origin());
       }},
      {"column_gradient", true, 3, [](P p, O o) {
         const auto c = o.columns.data();
         p.column_gradient(o.dy.data(), o.x.data(), o.y.data(), o.strip, {c, c, c, c}, o.origin());
       }}};
  return all;
}

template <typename T>
void run(benchmark::State& state, Level level, const Primitive<T>& primitive, const Strip& strip) {
  force_level(level);
  Operands<T> operands(strip);
  const Primitives<T>& of_level = primitives<T>();
  for (auto _ : state) {
    primitive.call(of_level, operands);
    benchmark::ClobberMemory();
  }
  const int64_t elements = state.iterations() * operands.elements();
  state.SetItemsProcessed(elements);
  state.SetBytesProcessed(elements * primitive.tensors * static_cast<int64_t>(sizeof(T)));
}

// Rows and their lengths. Planes of 7 x 7 and rows with a tail beside ones of whole vectors.
using Shapes = std::vector<std::pair<int64_t, int64_t>>;

template <typename T>
void add(Level level, const std::string& prefix) {
  static const Shapes runs{{1, 4096}, {84, 49}, {512, 4096}, {4096, 4096}};
  static const Shapes columns{{64, 64}, {64, 67}, {1 << 15, 64}, {1 << 18, 64}};
  for (const Primitive<T>& primitive : all_primitives<T>()) {
    for (const auto& [rows, length] : primitive.columns ? columns : runs) {
      const Strip strip{rows, length, length};
      const std::string shape = std::to_string(rows) + "x" + std::to_string(length);
      benchmark::RegisterBenchmark(
          (prefix + primitive.name + "/" + shape).c_str(),
          [=](benchmark::State& state) { run<T>(state, level, primitive, strip); });
    }
  }
}

void add_all() {
  static constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
  for (Level level : {Level::kBaseline, Level::kAvx2, Level::kAvx512, Level::kAvx512Bf16}) {
    if (level > highest_level()) continue;
    const std::string name = kNames[static_cast<int>(level)];
    add<float>(level, name + "/fp32/");
    add<double>(level, name + "/fp64/");
    add<BFloat16>(level, name + "/bf16/");
    add<Float16>(level, name + "/fp16/");
  }
}

}  // namespace
}  // namespace torchbn::cpu::vec

int main(int argc, char** argv) {
  torchbn::cpu::vec::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
