// Against torch::nn::BatchNorm1d, 2d, 3d and against the float64 reference: several training steps,
// then evaluation, over ranks, dtypes, layouts, affine or not, and ways to track statistics.

#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>

#include "support/call.h"
#include "support/cases.h"
#include "support/compare.h"
#include "support/reference.h"

namespace torchbn::test {
namespace {

// torch's module for inputs of some rank, as plain tensors: the three classes have no base class
// that can be called.
struct Module {
  Module(int64_t rank, const torch::nn::BatchNormOptions& options) {
    if (rank <= 3) {
      take(torch::nn::BatchNorm1d(options));
    } else if (rank == 4) {
      take(torch::nn::BatchNorm2d(options));
    } else {
      take(torch::nn::BatchNorm3d(options));
    }
  }

  std::function<at::Tensor(const at::Tensor&)> forward;
  std::shared_ptr<torch::nn::Module> module;
  at::Tensor* weight;
  at::Tensor* bias;
  at::Tensor* running_mean;
  at::Tensor* running_var;
  at::Tensor* num_batches_tracked;

 private:
  template <typename Holder>
  void take(Holder holder) {
    forward = [holder](const at::Tensor& input) mutable { return holder(input); };
    module = holder.ptr();
    weight = &holder->weight;
    bias = &holder->bias;
    running_mean = &holder->running_mean;
    running_var = &holder->running_var;
    num_batches_tracked = &holder->num_batches_tracked;
  }
};

struct Case {
  at::Device device;
  int64_t rank;
  Types types;
  Memory memory;
};

std::string case_name(const Case& c) {
  return name_of(c.device) + "Rank" + std::to_string(c.rank) + name_of(c.types) + name_of(c.memory);
}
void PrintTo(const Case& c, std::ostream* out) {
  *out << case_name(c);
}

class ParityTest : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override { TORCHBN_SKIP_WITHOUT(GetParam().device); }

  void compare(bool affine, std::optional<double> momentum);

  // Small tensors: on a busy machine, threads would spend their time waiting for each other.
  Threads threads_{1};
};

// How far ATen may be from the truth. It computes x * a + (b - mean * a), about 4 roundings of
// terms as large as |w| r, r = |mean| / std < 16 here, in float32 or float64; with parameters of a
// half type it keeps mean and invstd in that type, and on a GPU the gradients of a half input are
// as far off with parameters of float32, too. float32 sums of up to a hundred values, in the
// gradients, are off by 100 units of their terms at most. At last it rounds to its own output type.
at::Tensor aten_tolerance(const at::Tensor& ours, const at::Tensor& expected, const Case& c,
                          at::ScalarType output) {
  const Types& types = c.types;
  const at::ScalarType worst = c.device.is_cuda() ? types.input : types.parameters;
  const bool half = worst == at::kHalf || worst == at::kBFloat16;
  const double unit = half ? 4 * unit_of(worst) : 100 * unit_of(types.parameters);
  const double scale = expected.abs().max().item<double>();
  return ours + unit * (scale + 16) + 2 * half_ulp(expected, output);
}

void ParityTest::compare(bool affine, std::optional<double> momentum) {
  const auto [device, rank, types, memory] = GetParam();
  const std::vector<int64_t> shape = small_shape(rank);
  const int64_t channels = shape[1];
  constexpr double kEps = 1e-3;

  Module torch_module(
      rank, torch::nn::BatchNormOptions(channels).affine(affine).momentum(momentum).eps(kEps));
  torch_module.module->to(device, types.parameters);
  // torch's C++ modules convert the counter as well.
  *torch_module.num_batches_tracked = torch_module.num_batches_tracked->to(at::kLong);
  Arguments ours;
  ours.momentum = momentum;
  ours.eps = kEps;
  ours.running_mean = torch_module.running_mean->clone();
  ours.running_var = torch_module.running_var->clone();
  ours.num_batches_tracked = torch_module.num_batches_tracked->clone();
  if (affine) {
    const at::NoGradGuard no_grad;
    torch_module.weight->copy_(normal({channels}, 1) + 1);
    torch_module.bias->copy_(normal({channels}, 2));
    ours.weight = torch_module.weight->detach().clone().requires_grad_();
    ours.bias = torch_module.bias->detach().clone().requires_grad_();
  }

  for (int step = 0; step < 4; ++step) {
    SCOPED_TRACE("step " + std::to_string(step));
    ours.training = step < 3;
    torch_module.module->train(ours.training);

    const at::Tensor values =
        (normal(shape, 10 + step) * 1.5 + per_channel(at::arange(channels), normal(shape, 0)))
            .to(device, types.input);
    ours.input = laid_out(values, memory).detach().requires_grad_();
    const at::Tensor grad_output =
        laid_out(normal(shape, 20 + step).to(device, types.input), memory);
    // ATen gets everything contiguous: it is not right in every layout.
    const at::Tensor torch_input = ours.input.detach().contiguous().requires_grad_();

    const at::Tensor old_mean = ours.running_mean.clone();
    const at::Tensor old_var = ours.running_var.clone();
    const Forward expected =
        ours.training ? train(ours.input, ours.weight, ours.bias, kEps)
                      : evaluate(ours.input, ours.weight, ours.bias, old_mean, old_var, kEps);
    const Tolerances tolerances(ours.input, ours.weight, ours.bias, expected, ours.training);

    const at::Tensor output = call(ours);
    const at::Tensor torch_output = torch_module.forward(torch_input);
    EXPECT_EQ(output.scalar_type(), types.input);
    EXPECT_TRUE(lies_as(output, at::empty_like(ours.input)));
    EXPECT_TRUE(is_near(output, expected.output, tolerances.output));
    EXPECT_TRUE(
        is_near(output, exact(torch_output),
                aten_tolerance(tolerances.output, expected.output, GetParam(), types.input)));

    output.backward(grad_output);
    torch_output.backward(grad_output.contiguous());
    const Gradients gradients =
        backward(grad_output, ours.input, ours.weight, expected, ours.training);
    const at::Tensor input_tolerance = tolerances.grad_input(grad_output, gradients);
    EXPECT_TRUE(lies_as(ours.input.grad(), at::empty_like(ours.input)));
    EXPECT_TRUE(is_near(ours.input.grad(), gradients.input, input_tolerance));
    EXPECT_TRUE(is_near(ours.input.grad(), exact(torch_input.grad()),
                        aten_tolerance(input_tolerance, gradients.input, GetParam(), types.input)));
    if (affine) {
      const auto check = [&](const at::Tensor& gradient, const at::Tensor& torch_gradient,
                             const at::Tensor& truth, const at::Tensor& tolerance) {
        EXPECT_EQ(gradient.scalar_type(), types.parameters);
        EXPECT_TRUE(is_near(gradient, truth, tolerance));
        EXPECT_TRUE(is_near(gradient, exact(torch_gradient),
                            aten_tolerance(tolerance, truth, GetParam(), types.parameters)));
      };
      check(ours.weight.grad(), torch_module.weight->grad(), gradients.weight,
            tolerances.grad_weight(grad_output, gradients, types.parameters));
      check(ours.bias.grad(), torch_module.bias->grad(), gradients.bias,
            tolerances.grad_bias(grad_output, gradients, types.parameters));
      ours.weight.mutable_grad().reset();
      ours.bias.mutable_grad().reset();
      torch_module.module->zero_grad();
    }

    EXPECT_EQ(ours.num_batches_tracked.item<int64_t>(), ours.training ? step + 1 : 3);
    EXPECT_EQ(torch_module.num_batches_tracked->item<int64_t>(), ours.training ? step + 1 : 3);
    if (!ours.training) {
      EXPECT_TRUE(is_identical(ours.running_mean, old_mean));
      EXPECT_TRUE(is_identical(ours.running_var, old_var));
      continue;
    }
    const double factor = momentum.value_or(1.0 / (step + 1));
    const int64_t count = count_of(values);
    const auto check_running = [&](const at::Tensor& running, const at::Tensor& torch_running,
                                   const at::Tensor& old, const at::Tensor& batch,
                                   const at::Tensor& tolerance) {
      const at::Tensor truth = tracked(old, batch, factor);
      // Rounding through float32 first, to a half type then, costs a little more than half an ulp.
      const at::Tensor bound = factor * tolerance + half_ulp(truth, types.parameters) +
                               unit_of(at::kFloat) * truth.abs() * (types.input != at::kDouble) +
                               0x1p-50 * (exact(old).abs() + batch.abs());
      EXPECT_TRUE(is_near(running, truth, bound));
      EXPECT_TRUE(is_near(running, exact(torch_running),
                          aten_tolerance(bound, truth, GetParam(), types.parameters)));
    };
    check_running(ours.running_mean, *torch_module.running_mean, old_mean, expected.mean,
                  tolerances.mean);
    check_running(ours.running_var, *torch_module.running_var, old_var,
                  unbiased(expected.var, count), unbiased(tolerances.var, count));
    // From here on both go on from the same numbers, so that roundings do not add up.
    torch_module.running_mean->copy_(ours.running_mean);
    torch_module.running_var->copy_(ours.running_var);
  }
}

TEST_P(ParityTest, TrainsAndEvaluates) {
  for (bool affine : {true, false}) {
    for (std::optional<double> momentum : {std::optional<double>(0.1), std::optional<double>(0),
                                           std::optional<double>(1), std::optional<double>()}) {
      SCOPED_TRACE((affine ? "affine, momentum " : "no affine, momentum ") +
                   (momentum ? std::to_string(*momentum) : "None"));
      ASSERT_NO_FATAL_FAILURE(compare(affine, momentum));
      if (HasFailure()) return;  // the rest would say the same
    }
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (at::Device device : devices()) {
    for (int64_t rank = 2; rank <= 5; ++rank) {
      for (const Types& types : all_types()) {
        for (Memory memory : all_memory()) {
          // One value per channel, repeated: a constant channel, on which torch is not right.
          if (memory == Memory::kExpanded && rank == 2) continue;
          cases.push_back({device, rank, types, memory});
        }
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(, ParityTest, testing::ValuesIn(all_cases()),
                         [](const auto& c) { return case_name(c.param); });

}  // namespace
}  // namespace torchbn::test
