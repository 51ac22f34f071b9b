#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace torchbn::test {

using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// Whether autograd's gradient of sum(projection * f(inputs)), for a fixed random projection, agrees
// with central differences in every element of every input that requires grad. For float64.
//
// A difference over a step h = 6e-6 (the cube root of 2^-53) is off by h^2 f''' / 6 + 2^-53 |f| /
// h, about 4e-11 of f''' + |f|; the tolerance, 1e-7 of the largest gradient and 1e-8, allows for
// third derivatives of a few thousand.
testing::AssertionResult gradients_agree(const Function& f, const std::vector<at::Tensor>& inputs);

// The gradients of sum(projection * f(inputs)) as a function of inputs and, last, projection; flat
// in one vector, zero where f does not depend on an input. Checking that function checks f's second
// derivatives.
Function gradient_of(const Function& f);

}  // namespace torchbn::test
