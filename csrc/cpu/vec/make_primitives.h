#pragma once

#include "cpu/vec/finish.h"
#include "cpu/vec/maps.h"
#include "cpu/vec/primitive_sets.h"
#include "cpu/vec/sums.h"

namespace torchbn::cpu::vec {
namespace {

template <typename T>
constexpr Primitives<T> make_primitives() {
  return {.add_moments = add_moments<T>,
          .add_gradient = add_gradient<T>,
          .affine = affine<T>,
          .gradient = gradient<T>,
          .add_column_moments = add_column_moments<T>,
          .add_column_gradient = add_column_gradient<T>,
          .column_affine = column_affine<T>,
          .column_gradient = column_gradient<T>,
          .finish_training = finish_training<T>,
          .finish_inference = finish_inference<T>,
          .store_parameters = store_parameters,
          .training_gradient = training_gradient<T>,
          .evaluation_gradient = evaluation_gradient<T>};
}

constexpr PrimitiveSet make_primitive_set() {
  return {make_primitives<float>(), make_primitives<double>(), make_primitives<BFloat16>(),
          make_primitives<Float16>()};
}

}  // namespace
}  // namespace torchbn::cpu::vec
