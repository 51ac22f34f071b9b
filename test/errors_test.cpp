// Every wrong call raises, in the same words on every device and in inference mode, before anything
// is modified.

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "support/call.h"
#include "support/cases.h"
#include "support/wrong_call.h"

namespace torchbn::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct WrongCall {
  std::string name;
  std::vector<std::string> words;  // what the message says
  std::function<void(Arguments&)> spoil;
  bool outside_inference_mode_only = false;
};
void PrintTo(const WrongCall& wrong, std::ostream* out) {
  *out << wrong.name;
}

at::Tensor floats(const Arguments& a, at::IntArrayRef shape) {
  return at::ones(shape, a.input.options());
}

// The four arguments with one value per channel are checked alike.
struct Vector {
  const char* name;
  at::Tensor Arguments::*tensor;
};
constexpr Vector kVectors[] = {{"weight", &Arguments::weight},
                               {"bias", &Arguments::bias},
                               {"running_mean", &Arguments::running_mean},
                               {"running_var", &Arguments::running_var}};

std::string camel(const std::string& name) {
  std::string result;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '_') continue;
    result += i == 0 || name[i - 1] == '_' ? static_cast<char>(std::toupper(name[i])) : name[i];
  }
  return result;
}

void add_vector_calls(std::vector<WrongCall>& calls) {
  for (const auto& [name, vector] : kVectors) {
    const auto add = [&, name = name, vector = vector](const std::string& what,
                                                       std::vector<std::string> words,
                                                       std::function<void(Arguments&)> spoil) {
      words.insert(words.begin(), std::string("batch_norm: ") + name + " must ");
      calls.push_back({camel(name) + what, words, spoil});
      // Evaluation checks the same.
      calls.push_back({camel(name) + what + "InEvaluation", words, [spoil](Arguments& a) {
                         spoil(a);
                         a.training = false;
                       }});
    };
    const auto replace = [vector = vector](std::function<at::Tensor(const Arguments&)> make) {
      return [=](Arguments& a) { a.*vector = make(a); };
    };
    const auto convert = [vector = vector](at::ScalarType input, at::ScalarType to) {
      return [=](Arguments& a) {
        a.input = a.input.to(input);
        for (const Vector& other : kVectors) a.*other.tensor = (a.*other.tensor).to(input);
        a.*vector = (a.*vector).to(to);
      };
    };
    add("TooLong", {"one value per channel of input", "[4, 3, 5]", "[4]"},
        replace([](const Arguments& a) { return floats(a, {4}); }));
    add("TooShort", {"one value per channel of input", "[4, 3, 5]", "[1]"},
        replace([](const Arguments& a) { return floats(a, {1}); }));
    add("Scalar", {"one dimension, [C]", "[]"},
        replace([](const Arguments& a) { return floats(a, {}); }));
    add("OfRank2", {"one dimension, [C]", "[3, 1]"}, replace([](const Arguments& a) {
          return floats(a, {3, 1});
        }));
    add("OnOtherDevice", {"on input's device"},
        replace([vector = vector](const Arguments& a) { return elsewhere(a.*vector); }));
    add("Int64", {"float32 for float32 input", "is int64"}, convert(at::kFloat, at::kLong));
    add("Complex", {"float32 for float32 input", "is complex64"},
        convert(at::kFloat, at::kComplexFloat));
    add("Fp64WithFp32Input", {"be float32 for float32 input", "is float64"},
        convert(at::kFloat, at::kDouble));
    add("Fp16WithFp32Input", {"be float32 for float32 input", "is float16"},
        convert(at::kFloat, at::kHalf));
    add("Fp32WithFp64Input", {"be float64 for float64 input", "is float32"},
        convert(at::kDouble, at::kFloat));
    add("Fp16WithBf16Input", {"be bfloat16 or float32 for bfloat16 input", "is float16"},
        convert(at::kBFloat16, at::kHalf));
    add("Fp64WithFp16Input", {"be float16 or float32 for float16 input", "is float64"},
        convert(at::kHalf, at::kDouble));
  }
}

void add_input_calls(std::vector<WrongCall>& calls) {
  const auto of_dtype = [](at::ScalarType dtype) {
    return [=](Arguments& a) { a.input = a.input.to(dtype); };
  };
  const std::string kDtypes = "input must be float32, float64, bfloat16 or float16, but is ";
  calls.push_back({"InputInt64", {kDtypes + "int64"}, of_dtype(at::kLong)});
  calls.push_back({"InputUint8", {kDtypes + "uint8"}, of_dtype(at::kByte)});
  calls.push_back({"InputBool", {kDtypes + "bool"}, of_dtype(at::kBool)});
  calls.push_back({"InputComplex", {kDtypes + "complex64"}, of_dtype(at::kComplexFloat)});
  calls.push_back({"InputFp8", {kDtypes + "float8_e5m2"}, of_dtype(at::kFloat8_e5m2)});
  calls.push_back({"InputScalar", {"input must have shape (N, C, ...)", "[]"}, [](Arguments& a) {
                     a.input = floats(a, {});
                   }});
  calls.push_back({"InputOfRank1", {"input must have shape (N, C, ...)", "[3]"}, [](Arguments& a) {
                     a.input = floats(a, {3});
                   }});
  calls.push_back(
      {"InputOfRank1InEvaluation", {"input must have shape (N, C, ...)", "[3]"}, [](Arguments& a) {
         a.input = floats(a, {3});
         a.training = false;
       }});
  calls.push_back({"InputNone", {"input must be a tensor, but is None"}, [](Arguments& a) {
                     a.input = at::Tensor();
                   }});
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{1, 3}, {1, 3, 1}, {1, 3, 1, 1}, {1, 3, 1, 1, 1}}) {
    calls.push_back({"OneValuePerChannelOfRank" + std::to_string(shape.size()),
                     {"training needs more than one value per channel", "input has shape [1, 3"},
                     [=](Arguments& a) { a.input = floats(a, shape); }});
  }
}

void add_memory_calls(std::vector<WrongCall>& calls) {
  const auto add = [&](const char* name, std::vector<std::string> words,
                       std::function<void(Arguments&)> spoil) {
    calls.push_back({name, std::move(words), std::move(spoil)});
  };
  add("RunningMeanExpanded", {"running_mean", "must not overlap itself", "stride 0"},
      [](Arguments& a) { a.running_mean = floats(a, {1}).expand({3}); });
  add("RunningVarExpanded", {"running_var", "must not overlap itself", "stride 0"},
      [](Arguments& a) { a.running_var = floats(a, {}).expand({3}); });
  add("RunningMeanIsRunningVar", {"running_mean", "must not share memory with running_var"},
      [](Arguments& a) { a.running_var = a.running_mean; });
  add("RunningMeanOverlapsRunningVar", {"running_mean", "must not share memory with running_var"},
      [](Arguments& a) {
        const at::Tensor both = floats(a, {5});
        a.running_mean = both.slice(0, 0, 3);
        a.running_var = both.slice(0, 2, 5);
      });
  add("RunningMeanInInput", {"running_mean", "must not share memory with input"},
      [](Arguments& a) { a.running_mean = a.input.select(0, 2).select(1, 1); });
  add("RunningVarInInput", {"running_var", "must not share memory with input"},
      [](Arguments& a) { a.running_var = a.input.select(0, 3).select(1, 4); });
  add("RunningVarIsWeight", {"running_var", "must not share memory with weight"},
      [](Arguments& a) { a.running_var = a.weight.detach(); });
  add("RunningMeanIsBias", {"running_mean", "must not share memory with bias"},
      [](Arguments& a) { a.running_mean = a.bias.detach(); });
  const auto counter_in = [](const at::Tensor& tensor) {
    return tensor.view(-1).slice(0, 2, 4).view(at::kLong).select(0, 0);
  };
  add("CounterInInput", {"num_batches_tracked", "must not share memory with input"},
      [=](Arguments& a) { a.num_batches_tracked = counter_in(a.input); });
  add("CounterInRunningMean", {"running_mean", "must not share memory with num_batches_tracked"},
      [=](Arguments& a) {
        const at::Tensor buffer = floats(a, {4});
        a.running_mean = buffer.slice(0, 0, 3);
        a.num_batches_tracked = counter_in(buffer);
      });
  add("CounterInRunningVar", {"running_var", "must not share memory with num_batches_tracked"},
      [=](Arguments& a) {
        const at::Tensor buffer = floats(a, {4});
        a.running_var = buffer.slice(0, 0, 3);
        a.num_batches_tracked = counter_in(buffer);
      });

  const auto as_inference_tensor = [](const at::Tensor& tensor) {
    const c10::InferenceMode guard;
    return tensor.clone();
  };
  const std::vector<std::pair<std::string, at::Tensor Arguments::*>> buffers = {
      {"running_mean", &Arguments::running_mean},
      {"running_var", &Arguments::running_var},
      {"num_batches_tracked", &Arguments::num_batches_tracked}};
  for (const auto& [name, buffer] : buffers) {
    calls.push_back(
        {camel(name) + "OfInferenceMode",
         {name, "is an inference tensor", "clone it first"},
         [=, buffer = buffer](Arguments& a) { a.*buffer = as_inference_tensor(a.*buffer); },
         /*outside_inference_mode_only=*/true});
  }
}

void add_statistics_calls(std::vector<WrongCall>& calls) {
  const auto add = [&](const char* name, std::vector<std::string> words,
                       std::function<void(Arguments&)> spoil) {
    calls.push_back({name, std::move(words), std::move(spoil)});
  };
  add("RunningMeanAlone", {"running_mean and running_var must be given together", "var is None"},
      [](Arguments& a) { a.running_var = at::Tensor(); });
  add("RunningVarAlone", {"running_mean and running_var must be given together", "mean is None"},
      [](Arguments& a) { a.running_mean = at::Tensor(); });
  add("EvaluationWithRunningMeanAlone", {"evaluation", "needs both", "running_var is None"},
      [](Arguments& a) { a.running_var = at::Tensor(), a.training = false; });
  add("EvaluationWithRunningVarAlone", {"evaluation", "needs both", "running_mean is None"},
      [](Arguments& a) { a.running_mean = at::Tensor(), a.training = false; });
  add("EvaluationWithoutStatistics", {"evaluation", "needs both", "both are None"},
      [](Arguments& a) {
        a.running_mean = at::Tensor(), a.running_var = at::Tensor(), a.training = false;
      });
  for (bool training : {true, false}) {
    const std::string when = training ? "" : "InEvaluation";
    calls.push_back(
        {"RunningMeanRequiresGrad" + when,
         {"running_mean must not require grad"},
         [=](Arguments& a) { a.running_mean.requires_grad_(), a.training = training; }});
    calls.push_back({"RunningVarRequiresGrad" + when,
                     {"running_var must not require grad"},
                     [=](Arguments& a) { a.running_var.requires_grad_(), a.training = training; }});
    for (const auto& [name, eps, text] : {std::tuple{"EpsNaN", kNaN, "nan"},
                                          {"EpsInfinite", kInfinity, "inf"},
                                          {"EpsMinusInfinite", -kInfinity, "-inf"},
                                          {"EpsNegative", -1e-5, "-1e-05"}}) {
      calls.push_back({name + when,
                       {std::string("eps must be finite and not negative, but is ") + text},
                       [=, eps = eps](Arguments& a) { a.eps = eps, a.training = training; }});
    }
  }
  for (const auto& [name, momentum, text] : {std::tuple{"MomentumNaN", kNaN, "nan"},
                                             {"MomentumInfinite", kInfinity, "inf"},
                                             {"MomentumMinusInfinite", -kInfinity, "-inf"}}) {
    add(name, {std::string("momentum must be finite or None, but is ") + text},
        [momentum = momentum](Arguments& a) { a.momentum = momentum; });
  }
  add("CumulativeWithoutCounter", {"momentum=None", "needs num_batches_tracked"},
      [](Arguments& a) { a.momentum = std::nullopt, a.num_batches_tracked = at::Tensor(); });

  const char* const kCounter =
      "num_batches_tracked must be an int64 scalar (0-dim tensor), but is ";
  add("CounterInt32", {kCounter, "is int32 of shape []"},
      [](Arguments& a) { a.num_batches_tracked = a.num_batches_tracked.to(at::kInt); });
  add("CounterFp32", {kCounter, "is float32 of shape []"},
      [](Arguments& a) { a.num_batches_tracked = a.num_batches_tracked.to(at::kFloat); });
  add("CounterOfOneElement", {kCounter, "is int64 of shape [1]"},
      [](Arguments& a) { a.num_batches_tracked = a.num_batches_tracked.view({1}); });
  add("CounterExpanded", {kCounter, "is int64 of shape [3]"},
      [](Arguments& a) { a.num_batches_tracked = a.num_batches_tracked.expand({3}); });
  add("CounterOnOtherDevice", {"num_batches_tracked must be on input's device"},
      [](Arguments& a) { a.num_batches_tracked = elsewhere(a.num_batches_tracked); });
  add("CounterFp32WithoutStatistics", {kCounter, "is float32 of shape []"}, [](Arguments& a) {
    a.running_mean = at::Tensor(), a.running_var = at::Tensor();
    a.num_batches_tracked = a.num_batches_tracked.to(at::kFloat);
  });
}

const std::vector<WrongCall>& all_calls() {
  static const std::vector<WrongCall> all = [] {
    std::vector<WrongCall> calls;
    add_input_calls(calls);
    add_vector_calls(calls);
    add_statistics_calls(calls);
    add_memory_calls(calls);
    return calls;
  }();
  return all;
}

class WrongCallTest : public testing::TestWithParam<std::tuple<Place, WrongCall>> {};

TEST_P(WrongCallTest, Raises) {
  const auto& [place, wrong] = GetParam();
  TORCHBN_SKIP_WITHOUT(place.device);
  if (place.inference_mode && wrong.outside_inference_mode_only) return;
  Arguments a = valid_call(place.device);
  wrong.spoil(a);
  const Snapshot input(a.input), weight(a.weight), bias(a.bias), mean(a.running_mean),
      var(a.running_var), counter(a.num_batches_tracked);
  {
    const c10::InferenceMode guard(place.inference_mode);
    expect_error(wrong.words, [&a = a] { call(a); });
  }
  input.expect_unchanged("input");
  weight.expect_unchanged("weight");
  bias.expect_unchanged("bias");
  mean.expect_unchanged("running_mean");
  var.expect_unchanged("running_var");
  counter.expect_unchanged("num_batches_tracked");
}

INSTANTIATE_TEST_SUITE_P(, WrongCallTest,
                         testing::Combine(testing::ValuesIn(all_places()),
                                          testing::ValuesIn(all_calls())),
                         [](const auto& test) {
                           return std::get<0>(test.param).name + std::get<1>(test.param).name;
                         });

// What the calls above are made from is right.
TEST(WrongCallsTest, TheValidCallIsValid) {
  const Arguments a = valid_call(at::kCPU);
  EXPECT_NO_THROW(call(a));
  EXPECT_EQ(a.num_batches_tracked.item<int64_t>(), 8);
  EXPECT_GE(all_calls().size(), 40u);
}

// A gradient is asked for, so the call takes the road through autograd's Function.
TEST(WrongCallsTest, RaisesTheSameWhereInputRequiresGrad) {
  for (const WrongCall& wrong : all_calls()) {
    SCOPED_TRACE(wrong.name);
    Arguments a = valid_call(at::kCPU);
    a.bias.requires_grad_();
    wrong.spoil(a);
    const Snapshot mean(a.running_mean), var(a.running_var), counter(a.num_batches_tracked);
    expect_error(wrong.words, [&a = a] { call(a); });
    mean.expect_unchanged("running_mean");
    var.expect_unchanged("running_var");
    counter.expect_unchanged("num_batches_tracked");
  }
}

// For which the dispatcher looks for other kernels than those of dense tensors.
TEST(WrongCallsTest, SparseTensorsRaise) {
  Arguments a = valid_call(at::kCPU);
  const Snapshot mean(a.running_mean), counter(a.num_batches_tracked);
  a.input = a.input.to_sparse();
  expect_error({"input must be a dense", "Sparse"}, [&] { call(a); });
  a = valid_call(at::kCPU);
  a.running_var = a.running_var.to_sparse();
  expect_error({"running_var must be a dense", "Sparse"}, [&] { call(a); });
  mean.expect_unchanged("running_mean");
  counter.expect_unchanged("num_batches_tracked");
}

}  // namespace
}  // namespace torchbn::test
