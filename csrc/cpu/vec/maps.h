#pragma once

#include "cpu/vec/column_maps.h"
#include "cpu/vec/run_maps.h"

// The element-wise primitives. Internal linkage: see simd.h.
namespace torchbn::cpu::vec {
namespace {

template <typename T>
void affine(const T* x, T* y, const Strip& strip, const Affine<const Compute<T>*>& maps,
            Origin origin) {
  map_runs<T>(AffineTensors<T>{x, y}, strip, maps, origin);
}

template <typename T>
void gradient(const T* dy, const T* x, T* dx, const Strip& strip,
              const GradientCoefficients<const Compute<T>*>& maps, Origin origin) {
  map_runs<T>(GradientTensors<T>{dy, x, dx}, strip, maps, origin);
}

template <typename T>
void column_affine(const T* x, T* y, const Strip& strip, const Affine<const Compute<T>*>& maps,
                   Origin origin) {
  map_columns<T>(AffineTensors<T>{x, y}, strip, Affine<const Compute<T>*>(maps), origin);
}

template <typename T>
void column_gradient(const T* dy, const T* x, T* dx, const Strip& strip,
                     const GradientCoefficients<const Compute<T>*>& maps, Origin origin) {
  map_columns<T>(GradientTensors<T>{dy, x, dx}, strip,
                 GradientCoefficients<const Compute<T>*>(maps), origin);
}

}  // namespace
}  // namespace torchbn::cpu::vec
