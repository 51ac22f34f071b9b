#!/usr/bin/env bash
# Builds and tests torchbn with the newest release of torch in .venv-VERSION and build-VERSION, beside
# those of the torch that the other scripts work with.
#
#   test_newest.sh
#
# CUDA kernels, which know no torch, are built for one GPU only, unless a compiler cache may have them
# from the other build, and the examples not at all. Left out are the tests that another torch can't
# change: those of the kernels by themselves, of errors against float64, of the benchmark, of
# gpu_check.sh and of what the CUDA compiler made of the kernels.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# With it go README.md, CHANGELOG.md and the newest minor version in csrc/autograd/batch_norm.cpp.
export TORCHBN_TORCH=2.15.0

case ${1-} in
  -h | --help) help && echo "Now VERSION is $TORCHBN_TORCH." && exit ;;
  '') ;;
  *) die "unknown argument $1; see --help" ;;
esac

gpus=(-DCMAKE_CUDA_ARCHITECTURES=90a-real)
[[ -z ${CMAKE_CUDA_COMPILER_LAUNCHER-} ]] || gpus=()
"$root/scripts/build.sh" "${gpus[@]}" -DTORCHBN_BUILD_EXAMPLES=OFF -DTORCHBN_WERROR=ON
"$root/scripts/test.sh" --cpp --exclude-regex '^internals_test$'
"$root/scripts/test.sh" --python --ignore-glob='*/test_accuracy*' --ignore-glob='*/test_bench*' \
  --ignore-glob='*/test_gpu_check*' --ignore-glob='*/test_cuda_resources*'
