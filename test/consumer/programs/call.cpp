// Uses the public header alone: calls the operator and compares it with torch's.

#include <ATen/ops/allclose.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/randn.h>
#include <torchbn/batch_norm.h>
#include <torchbn/version.h>

#include <cstdio>

int main() {
  const at::Tensor input = at::randn({4, 3, 5, 5}), weight = at::randn({3}), bias = at::randn({3});
  const at::Tensor output = torchbn::batch_norm(input, weight, bias, {}, {}, /*training=*/true);
  const at::Tensor expected =
      at::batch_norm(input, weight, bias, {}, {}, /*training=*/true, 0.1, 1e-5, false);
  const bool same = at::allclose(output, expected, 1e-4, 1e-5);
  std::printf("torchbn %d.%d.%d: %s\n", TORCHBN_VERSION_MAJOR, TORCHBN_VERSION_MINOR,
              TORCHBN_VERSION_PATCH, same ? "as torch" : "differs from torch");
  return same ? 0 : 1;
}
