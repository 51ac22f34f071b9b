// Which kernels the shapes of well-known nets get, and why. Run with
// --gtest_filter='*PrintsWhatNetsGet' to see the tables.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "cuda/launch_policy.h"
#include "cuda/on_chip/nets.h"
#include "cuda/rounds.h"
#include "support/extents.h"

namespace torchbn::cuda {
namespace {

constexpr int64_t kKiB = 1024;
constexpr int64_t kMiB = 1024 * kKiB;

struct Device {
  const char* name;
  DeviceLimits limits;
};
constexpr Device kDevices[] = {
    {"A100", {108, 2147483647, 163 * kKiB, 164 * kKiB, 40 * kMiB, 1}},
    {"H100", {132, 2147483647, 227 * kKiB, 228 * kKiB, 50 * kMiB, 8}},
    {"RTX 5090", {170, 2147483647, 99 * kKiB, 100 * kKiB, 96 * kMiB, 8}},
};
constexpr DeviceLimits kH100 = kDevices[1].limits;

// A problem of training.
LaunchPolicy choose(const Extent& extent, DType dtype, bool forward, const DeviceLimits& device,
                    KernelChoice choice = KernelChoice::kAuto) {
  static float somewhere = 0;
  if (forward) {
    TrainProblem problem;
    problem.extent = extent;
    problem.dtype = dtype;
    return choose_policy(problem, device, choice);
  }
  BackwardProblem problem;
  problem.extent = extent;
  problem.dtype = dtype;
  problem.training = true;
  problem.grad_input = &somewhere;
  return choose_policy(problem, device, choice);
}

constexpr Layout kLayouts[] = {Layout::kChannelsFirst, Layout::kChannelsLast};

// What a net's batch norm works on.
struct Case {
  const Net& net;
  int64_t batch;
  Shape shape;
  Layout layout;
  DType dtype;
  bool forward;

  Extent extent() const { return test::extent_of(batch, shape.channels, shape.spatial, layout); }
};

LaunchPolicy choose(const Case& c, const DeviceLimits& device,
                    KernelChoice choice = KernelChoice::kAuto) {
  return choose(c.extent(), c.dtype, c.forward, device, choice);
}

// Groups of channels x blocks of a cluster, or groups / teams x blocks of a team, and the shared
// memory of a block.
std::string describe(const LaunchPolicy& policy) {
  const OnChipLaunch& launch = policy.on_chip;
  if (!launch.used()) return fmt::format("split: {}", policy.reason);
  const int64_t groups = test::groups_of(policy);
  const int64_t kib = (launch.shared_bytes + kKiB - 1) / kKiB;
  if (launch.team > 0)
    return fmt::format("{} / {} x {}, {} KiB: {}", groups, launch.teams, launch.team, kib,
                       policy.reason);
  return fmt::format("{} x {}, {} KiB: {}", groups, launch.cluster, kib, policy.reason);
}

template <typename F>
void for_every_shape(const F& f) {
  for (const Net& net : nets())
    for (const int64_t batch : net.batches)
      for (const Shape& shape : net.shapes)
        for (const Layout layout : kLayouts) {
          const bool last = layout == Layout::kChannelsLast;
          if (batch * shape.spatial == 1 || (!last && shape.spatial == 1)) continue;
          for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
            for (const bool forward : {true, false})
              f(Case{net, batch, shape, layout, dtype, forward});
        }
}

TEST(OnChipPolicy, PrintsWhatNetsGet) {
  const Net* last = nullptr;
  for_every_shape([&](const Case& c) {
    if (c.batch != c.net.shown) return;
    if (last != &c.net)
      fmt::print("\n{}, batches of {} on an H100: > forward, < backward", c.net.name, c.net.shown);
    last = &c.net;
    const bool first = c.layout == Layout::kChannelsFirst;
    if (c.dtype == DType::kFloat32 && c.forward)
      fmt::print("\nC{:<5} S{:<6} {:<5}", c.shape.channels, c.shape.spatial,
                 first ? "first" : "last");
    fmt::print(" | {} {} {:<36}", c.dtype == DType::kFloat32 ? "fp32" : "bf16",
               c.forward ? ">" : "<", describe(choose(c, kH100)));
  });
  fmt::print("\n\n");
}

template <typename Tiling>
void expect_consistent(const LaunchPolicy& policy, const Tiling& tiling, DType dtype, int tensors,
                       const DeviceLimits& device) {
  const OnChipLaunch& launch = policy.on_chip;
  if (launch.team > 0) {
    EXPECT_EQ(launch.cluster, 0);
    EXPECT_EQ(tiling.splits, launch.team);
    EXPECT_EQ(tiling.grid, launch.teams * launch.team);
    EXPECT_LE(launch.teams, tiling.groups());
    // All blocks must run at once.
    EXPECT_LE(tiling.grid, 2 * device.multiprocessors);
    EXPECT_LE(2 * (launch.shared_bytes + kKiB), device.shared_per_multiprocessor);
    EXPECT_EQ(policy.parts, launch.team);
    EXPECT_EQ(policy.workspace_coefficients % 256, 0u);
    EXPECT_GE(int64_t(policy.workspace_coefficients), policy.parts * tiling.channels * kSumsBytes);
    EXPECT_EQ(int64_t(policy.workspace_bytes - policy.workspace_coefficients),
              tiling.channels * kCoefficientBytes);
  } else {
    EXPECT_LE(launch.cluster, device.max_cluster);
    EXPECT_LE(tiling.splits, launch.cluster);
    EXPECT_GT(2 * tiling.splits, launch.cluster) << "half of the blocks have nothing to do";
    EXPECT_EQ(tiling.grid, tiling.groups() * launch.cluster);
    EXPECT_EQ(policy.workspace_bytes, 0u);
  }
  EXPECT_LE(tiling.grid, device.max_grid);
  EXPECT_GE(launch.tensor_bytes,
            launch.slots * tiling.pitch() * tiling.width * int64_t(size_of(dtype)));
  EXPECT_EQ(launch.sums_offset, tensors * launch.tensor_bytes);
  EXPECT_EQ(launch.tensor_bytes % kVectorBytes, 0);
  EXPECT_EQ(launch.coefficients_offset % kVectorBytes, 0);
  EXPECT_LE(launch.shared_bytes, device.shared_per_block);
  EXPECT_EQ(launch.shared_limit, device.shared_per_block);
  int64_t channels = 0;
  for (int64_t group = 0; group < tiling.groups(); ++group) {
    EXPECT_EQ(tiling.first_channel(group), channels);
    channels += tiling.channels_of(group);
  }
  EXPECT_EQ(channels, tiling.channels);
}

TEST(OnChipPolicy, NumbersFitTheDevice) {
  for (const Device& device : kDevices)
    for (const KernelChoice choice :
         {KernelChoice::kAuto, KernelChoice::kResident, KernelChoice::kCooperative})
      for_every_shape([&](const Case& c) {
        SCOPED_TRACE(testing::Message()
                     << device.name << ", " << c.net.name << ", " << test::describe(c.extent()));
        const LaunchPolicy policy = choose(c, device.limits, choice);
        if (!policy.on_chip.used()) return;
        const int tensors = c.forward ? 1 : 2;
        if (policy.layout == Layout::kChannelsFirst)
          expect_consistent(policy, policy.channels_first, c.dtype, tensors, device.limits);
        else
          expect_consistent(policy, policy.channels_last, c.dtype, tensors, device.limits);
      });
}

int cluster(const Extent& e, DType dtype, bool forward = true,
            KernelChoice choice = KernelChoice::kAuto, const DeviceLimits& device = kH100) {
  return choose(e, dtype, forward, device, choice).on_chip.cluster;
}

// All planes of ResNet-50 but the first ones of large batches stay on chip.
TEST(OnChipPolicy, HoldsChannelsFirstNets) {
  for (const Net& net : nets()) {
    if (std::string(net.name) != "ResNet-50") continue;
    for (const int64_t batch : net.batches)
      for (const Shape& shape : net.shapes)
        for (const DType dtype : {DType::kFloat32, DType::kBFloat16})
          for (const bool forward : {true, false}) {
            const Extent e{batch, shape.channels, shape.spatial};
            const int64_t bytes =
                batch * shape.spatial * static_cast<int64_t>(size_of(dtype)) * (forward ? 1 : 2);
            if (bytes > 8 * 220 * kKiB) continue;
            EXPECT_GT(cluster(e, dtype, forward, KernelChoice::kResident), 0)
                << batch << " " << shape.channels << " " << shape.spatial;
          }
  }
}

TEST(OnChipPolicy, TakesTheSmallestClusterThatFillsTheDeviceInPairs) {
  const auto first = [](int64_t batch, int64_t channels, int64_t side) {
    return Extent{batch, channels, square(side)};
  };
  EXPECT_EQ(cluster(first(32, 256, 14), DType::kFloat32), 1);   // 25 KiB a channel
  EXPECT_EQ(cluster(first(32, 256, 56), DType::kFloat32), 4);   // 392 KiB
  EXPECT_EQ(cluster(first(32, 256, 56), DType::kBFloat16), 2);  // half of it
  EXPECT_EQ(cluster(first(32, 256, 56), DType::kFloat32, false), 8);
  EXPECT_EQ(cluster(first(32, 64, 28), DType::kFloat32), 4);  // 98 KiB, but few channels
  EXPECT_EQ(cluster(first(128, 64, 112), DType::kFloat32), 0);
  // Channels-last: 64 bytes by 25088 rows are held by eight blocks, but do not pay.
  const Extent last{128 * square(14), 1024, 1};
  EXPECT_EQ(cluster(last, DType::kBFloat16, true, KernelChoice::kResident), 8);
  EXPECT_EQ(cluster(last, DType::kBFloat16), 0);
}

// What no cluster holds, and few channels that no cluster spreads over the device.
TEST(OnChipPolicy, HoldsInTeams) {
  const auto rounds = [](const Extent& e, DType dtype, bool forward,
                         KernelChoice choice = KernelChoice::kCooperative) {
    return test::rounds_of(choose(e, dtype, forward, kH100, choice));
  };
  const Extent stem{128, 64, square(112)};  // 6 MiB a channel
  EXPECT_EQ(rounds(stem, DType::kFloat32, true), 1);
  EXPECT_EQ(rounds(stem, DType::kFloat32, false), 1);
  EXPECT_EQ(rounds({32, 512, square(56)}, DType::kFloat32, true), 2);  // of 264 blocks
  for (const Layout layout : kLayouts) {
    const Extent one_channel = test::extent_of(64, 1, square(224), layout);
    EXPECT_EQ(rounds(test::extent_of(20, 6, 65536, layout), DType::kFloat16, true), 1);
    EXPECT_EQ(rounds(one_channel, DType::kFloat32, true), 1);
    EXPECT_EQ(rounds(one_channel, DType::kFloat32, false), 1);
    EXPECT_EQ(rounds(test::extent_of(8, 3, square(512), layout), DType::kFloat32, true), 1);
  }
  // Where clusters hold it, they meet sooner; but not where large ones start in less than two
  // waves.
  EXPECT_EQ(rounds({64, 1, square(224)}, DType::kFloat32, true, KernelChoice::kAuto), 1);
  EXPECT_EQ(rounds(stem, DType::kFloat32, true, KernelChoice::kAuto), 1);
  EXPECT_EQ(rounds({32, 256, square(56)}, DType::kFloat32, true, KernelChoice::kAuto), 0);
  EXPECT_EQ(rounds({32, 64, square(112)}, DType::kBFloat16, true, KernelChoice::kAuto), 1);
  EXPECT_EQ(rounds({128, 256, square(56)}, DType::kBFloat16, true, KernelChoice::kAuto), 0);
}

// Teams keep as much as there is room for.
TEST(OnChipPolicy, KeepsWhatFits) {
  const auto kept = [](const Extent& e, bool forward) {
    const LaunchPolicy policy =
        choose(e, DType::kFloat32, forward, kH100, KernelChoice::kCooperative);
    return static_cast<double>(policy.on_chip.slots) /
           static_cast<double>(test::thread_vectors_of(policy));
  };
  for (const Layout layout : kLayouts) {
    const Extent fits = test::extent_of(6, 3, square(512), layout);  // 18 MiB
    EXPECT_EQ(kept(fits, true), 1);
    EXPECT_NEAR(kept(fits, false), 0.62, 0.06);
    EXPECT_NEAR(kept(test::extent_of(32, 64, square(112), layout), true), 0.23, 0.02);
  }
}

// Others keep the multiprocessors that are left free, and clusters wait for nobody anyway.
TEST(OnChipPolicy, TeamsLeaveMultiprocessorsFree) {
  DeviceLimits device = kH100;
  device.left_free = 20;
  for (const Layout layout : kLayouts)
    for (const bool forward : {true, false}) {
      const Extent e = test::extent_of(128, 64, square(112), layout);
      const OnChipLaunch all = choose(e, DType::kFloat32, forward, kH100).on_chip;
      const OnChipLaunch some = choose(e, DType::kFloat32, forward, device).on_chip;
      EXPECT_GT(all.team * all.teams, 2 * 112);
      EXPECT_LE(some.team * some.teams, 2 * 112);
      EXPECT_GT(some.team * some.teams, 2 * 90);
    }
  device.left_free = 131;
  EXPECT_LE(
      choose({128, 64, square(112)}, DType::kFloat32, true, device, KernelChoice::kCooperative)
          .on_chip.teams,
      2);
  EXPECT_EQ(cluster({32, 256, square(56)}, DType::kFloat32, true, KernelChoice::kAuto, device), 4);
}

TEST(OnChipPolicy, SaysWhy) {
  const auto reason = [](const Extent& e, bool forward = true,
                         KernelChoice choice = KernelChoice::kAuto) {
    return std::string(choose(e, DType::kFloat32, forward, kH100, choice).reason);
  };
  EXPECT_EQ(reason({1000000, 64, 1}), "in teams");
  EXPECT_EQ(reason({64, 1001, 1}), "no on-chip kernel suits it");
  EXPECT_EQ(reason({32, 256, square(56)}), "one read");
  EXPECT_EQ(reason({8, 3, 100}), "small: one launch");
  EXPECT_EQ(reason({64, 4, 4096}), "one read, in teams");
  EXPECT_EQ(reason({64, 4, 4096}, true, KernelChoice::kResident), "asked for");
  EXPECT_EQ(reason({8, 3, 100}, true, KernelChoice::kSplit), "asked for");
}

// Before compute capability 9.0 a block is alone.
TEST(OnChipPolicy, DoesWithoutClusters) {
  for_every_shape([](const Case& c) {
    EXPECT_LE(choose(c, kDevices[0].limits, KernelChoice::kResident).on_chip.cluster, 1);
  });
  EXPECT_EQ(cluster({32, 2048, 49}, DType::kFloat32, true, KernelChoice::kAuto, kDevices[0].limits),
            1);
}

TEST(OnChipPolicy, IsTheDefault) {
  TrainProblem problem;
  problem.extent = {32, 256, 196};
  EXPECT_GT(choose_policy(problem, kH100).on_chip.cluster, 0);
  EXPECT_FALSE(choose_policy(problem, kH100, KernelChoice::kSplit).on_chip.used());
}

// One pass over what is read is all that evaluation needs.
TEST(OnChipPolicy, IsForWhatWouldBeReadTwice) {
  for (const KernelChoice choice : {KernelChoice::kResident, KernelChoice::kCooperative}) {
    InferenceProblem inference;
    inference.extent = {32, 256, 196};
    EXPECT_FALSE(choose_policy(inference, kH100, choice).on_chip.used());
    float value = 0;
    BackwardProblem backward;
    backward.extent = inference.extent;
    backward.training = true;
    backward.grad_input = &value;
    EXPECT_TRUE(choose_policy(backward, kH100, choice).on_chip.used());
    backward.training = false;
    EXPECT_FALSE(choose_policy(backward, kH100, choice).on_chip.used());
  }
}

// What is read once is not held. Small tensors are summed up in clusters for the one launch, unless
// these would be few.
TEST(OnChipPolicy, SumsUpWithoutHolding) {
  constexpr Extent kLittle{32, 256, 49}, kMore{32, 256, 196}, kFewChannels{170, 3, 1024};
  float value = 0;
  for (const bool training : {true, false}) {
    BackwardProblem backward;
    backward.training = training;
    backward.grad_bias.data = &value;
    if (!training) backward.grad_input = &value;
    const auto choose = [&](const Extent& extent, KernelChoice choice) {
      backward.extent = extent;
      return choose_policy(backward, kH100, choice);
    };
    for (const LaunchPolicy& policy :
         {choose(kLittle, KernelChoice::kAuto), choose(kMore, KernelChoice::kResident)}) {
      EXPECT_GT(policy.on_chip.cluster, 0);
      EXPECT_EQ(policy.on_chip.slots, 0);
      EXPECT_GT(policy.on_chip.shared_bytes, 0);
      EXPECT_LT(policy.on_chip.shared_bytes, 16 * kKiB);
      EXPECT_EQ(policy.workspace_bytes, 0u);
      EXPECT_EQ(policy.maps_while_summing, !training);
    }
    for (const LaunchPolicy& policy :
         {choose(kMore, KernelChoice::kAuto), choose(kFewChannels, KernelChoice::kAuto),
          choose(kLittle, KernelChoice::kSplit), choose(kLittle, KernelChoice::kCooperative)})
      EXPECT_FALSE(policy.on_chip.used());
  }
}

TEST(OnChipPolicy, ChoicesHaveNames) {
  EXPECT_EQ(kernel_choice("split"), KernelChoice::kSplit);
  EXPECT_EQ(kernel_choice("resident"), KernelChoice::kResident);
  EXPECT_EQ(kernel_choice("cooperative"), KernelChoice::kCooperative);
  EXPECT_EQ(kernel_choice("auto"), KernelChoice::kAuto);
  for (const char* name : {"", "Split", "auto ", "1"}) EXPECT_FALSE(kernel_choice(name)) << name;
}

}  // namespace
}  // namespace torchbn::cuda
