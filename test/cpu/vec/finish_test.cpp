// The primitives between sums and maps: on every level what core's functions give channel by
// channel, bit for bit, with vectors of every dtype and stride, absent ones, and special values.

#include "core/finish_channel.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpu/vec/levels.h"
#include "cpu/vec/strips.h"

namespace torchbn::test {
namespace {

using cpu::vec::ChannelRange;
using cpu::vec::Primitives;
using Numbers = std::vector<double>;

constexpr int64_t kChannels = 150;

// Every fourth one is special.
Numbers numbers(unsigned seed) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const std::array special = {0.0, -0.0, 1.0, kInfinity, -kInfinity, std::nan(""), 1e-40, 1e30};
  std::mt19937 engine(seed);
  std::normal_distribution<double> draw;
  Numbers values(kChannels);
  for (int64_t i = 0; i < kChannels; ++i)
    values[i] = i % 4 == 3 ? special[engine() % special.size()] : draw(engine);
  return values;
}

// Of any sign, a NaN is a NaN.
template <typename V>
void expect_same(const std::vector<V>& actual, const std::vector<V>& expected, const char* name) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const bool same = std::isnan(expected[i])
                          ? std::isnan(actual[i])
                          : std::memcmp(&actual[i], &expected[i], sizeof(V)) == 0;
    ASSERT_TRUE(same) << name << " of channel " << i << ": " << actual[i] << " and not "
                      << expected[i];
  }
}

struct Vectors {
  DType dtype;
  int64_t stride;
  bool present;
};

// A vector in memory of its own, or none.
class Vector {
 public:
  Vector(const Vectors& kind, const Numbers& values)
      : kind_(kind), bytes_(kChannels * kind.stride * size_of(kind.dtype)) {
    for (int64_t i = 0; i < kChannels; ++i) memory().store(i, values[i]);
  }

  MutableChannelVector memory() { return {bytes_.data(), kind_.stride, kind_.dtype}; }
  MutableChannelVector write() { return kind_.present ? memory() : MutableChannelVector{}; }
  ChannelVector read() { return write().read(); }

  friend void expect_same(Vector& actual, Vector& expected, const char* name) {
    Numbers values[2];
    for (int64_t i = 0; i < kChannels * actual.kind_.stride; ++i) {
      values[0].push_back(actual.element(i));
      values[1].push_back(expected.element(i));
    }
    expect_same(values[0], values[1], name);
  }

 private:
  // Also one that lies between those of the channels.
  double element(int64_t i) { return ChannelVector{bytes_.data(), 1, kind_.dtype}.load(i); }

  Vectors kind_;
  std::vector<unsigned char> bytes_;
};

// The coefficients of maps, filled with what no map holds.
template <template <typename> typename Map, typename V>
class Arrays {
 public:
  Arrays() { arrays_.fill(std::vector<V>(kChannels, V(-12345))); }

  Map<V*> from(int64_t channel) {
    size_t i = 0;
    return Map<V>().each([&](V) { return &arrays_[i++][channel]; });
  }
  void set(int64_t channel, const Map<V>& map) {
    size_t i = 0;
    map.each([&](V value) { return arrays_[i++][channel] = value; });
  }

  friend void expect_same(const Arrays& actual, const Arrays& expected, const char* name) {
    for (size_t i = 0; i < actual.arrays_.size(); ++i)
      expect_same(actual.arrays_[i], expected.arrays_[i], name);
  }

 private:
  std::array<std::vector<V>, sizeof(Map<V>) / sizeof(V)> arrays_;
};

// What the functions read, and what they write.
template <typename V>
struct Channels {
  explicit Channels(const Vectors& kind)
      : weight(kind, numbers(4)),
        bias(kind, numbers(5)),
        running_mean(kind, numbers(6)),
        running_var(kind, numbers(7)),
        grad_weight(kind, numbers(8)),
        grad_bias(kind, numbers(9)) {}

  TrainProblem train() {
    TrainProblem problem = forward<TrainProblem>();
    problem.running = {running_mean.write(), running_var.write(),
                       running_mean.write().present() ? &batches : nullptr, 0.1, cumulative};
    problem.eps = 1e-5;
    return problem;
  }
  InferenceProblem inference() {
    InferenceProblem problem = forward<InferenceProblem>();
    // These are always there.
    problem.running_mean = running_mean.memory().read();
    problem.running_var = running_var.memory().read();
    problem.eps = 0;
    return problem;
  }
  template <typename Problem>
  Problem forward() {
    Problem problem;
    problem.extent = extent;
    problem.weight = weight.read();
    problem.bias = bias.read();
    problem.save_mean = mean.data();
    problem.save_invstd = invstd.data();
    return problem;
  }
  BackwardProblem backward() {
    BackwardProblem problem;
    problem.extent = extent;
    problem.weight = weight.read();
    problem.mean = mean.data();
    problem.invstd = invstd.data();
    problem.grad_weight = grad_weight.write();
    problem.grad_bias = grad_bias.write();
    return problem;
  }

  static constexpr Extent extent{7, kChannels, 3};
  Numbers first = numbers(1), second = numbers(2), pivots = numbers(3);
  Vector weight, bias, running_mean, running_var, grad_weight, grad_bias;
  Numbers mean = numbers(10), invstd = numbers(11);
  Arrays<Affine, V> affine;
  Arrays<GradientCoefficients, V> gradient;
  int64_t batches = 3;
  bool cumulative = false;
};

template <typename T>
class FinishTest : public testing::Test {
 protected:
  using Value = Compute<T>;

  // many(primitives, data, channels) has to do what one(data, channel) does for each.
  template <typename Many, typename One>
  void check(const Many& many, const One& one) {
    for (const Vectors& kind : kinds()) {
      for (const ChannelRange& range :
           {ChannelRange{0, 1}, {3, 7}, {5, 16}, {0, 64}, {60, 65}, {0, kChannels}}) {
        Channels<Value> expected(kind);
        for (int64_t c = range.begin; c < range.begin + range.size; ++c) one(expected, c);
        for (cpu::vec::Level level : levels()) {
          const ForcedLevel forced(level);
          SCOPED_TRACE(std::string(name_of(level)) + ", stride " + std::to_string(kind.stride) +
                       ", channels " + std::to_string(range.begin) + " and " +
                       std::to_string(range.size - 1) + " more");
          Channels<Value> actual(kind);
          many(cpu::vec::primitives<T>(), actual, range);
          expect_same(actual.running_mean, expected.running_mean, "running mean");
          expect_same(actual.running_var, expected.running_var, "running variance");
          expect_same(actual.grad_weight, expected.grad_weight, "gradient of weight");
          expect_same(actual.grad_bias, expected.grad_bias, "gradient of bias");
          expect_same(actual.mean, expected.mean, "mean");
          expect_same(actual.invstd, expected.invstd, "invstd");
          expect_same(actual.affine, expected.affine, "affine map");
          expect_same(actual.gradient, expected.gradient, "gradient map");
          if (this->HasFatalFailure()) return;
        }
      }
    }
  }

 private:
  static std::vector<Vectors> kinds() {
    std::vector<Vectors> all{{DType::kFloat32, 1, false}};
    for (DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16})
      for (int64_t stride : {1, 3}) all.push_back({dtype, stride, true});
    return all;
  }
};
TYPED_TEST_SUITE(FinishTest, ElementTypes, ElementNames);

TYPED_TEST(FinishTest, Training) {
  for (bool cumulative : {false, true}) {
    this->check(
        [&](const auto& primitives, auto& data, const ChannelRange& channels) {
          data.cumulative = cumulative;
          const int64_t c = channels.begin;
          primitives.finish_training(data.train(), channels, &data.first[c], &data.second[c],
                                     &data.pivots[c], data.affine.from(c));
        },
        [&](auto& data, int64_t c) {
          data.cumulative = cumulative;
          data.affine.set(c, finish_training<Compute<TypeParam>>(
                                 data.train(), c, {data.first[c], data.second[c]}, data.pivots[c]));
        });
  }
}

TYPED_TEST(FinishTest, Inference) {
  this->check(
      [](const auto& primitives, auto& data, const ChannelRange& channels) {
        primitives.finish_inference(data.inference(), channels, data.affine.from(channels.begin));
      },
      [](auto& data, int64_t c) {
        data.affine.set(c, finish_inference<Compute<TypeParam>>(data.inference(), c));
      });
}

TYPED_TEST(FinishTest, Parameters) {
  this->check(
      [](const auto& primitives, auto& data, const ChannelRange& channels) {
        const int64_t c = channels.begin;
        primitives.store_parameters(data.backward(), channels, &data.first[c], &data.second[c]);
      },
      [](auto& data, int64_t c) {
        store_parameters(data.backward(), c, {data.first[c], data.second[c]});
      });
}

TYPED_TEST(FinishTest, TrainingGradient) {
  this->check(
      [](const auto& primitives, auto& data, const ChannelRange& channels) {
        const int64_t c = channels.begin;
        primitives.training_gradient(data.backward(), channels, &data.first[c], &data.second[c],
                                     data.gradient.from(c));
      },
      [](auto& data, int64_t c) {
        data.gradient.set(c, training_gradient<Compute<TypeParam>>(
                                 data.backward(), c, {data.first[c], data.second[c]}));
      });
}

TYPED_TEST(FinishTest, EvaluationGradient) {
  this->check(
      [](const auto& primitives, auto& data, const ChannelRange& channels) {
        primitives.evaluation_gradient(data.backward(), channels, data.affine.from(channels.begin));
      },
      [](auto& data, int64_t c) {
        data.affine.set(c, evaluation_gradient<Compute<TypeParam>>(data.backward(), c));
      });
}

}  // namespace
}  // namespace torchbn::test
