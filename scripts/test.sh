#!/usr/bin/env bash
# Runs the tests, after setup and build: the C++ programs and the consumer projects through ctest,
# then those in test/python through pytest. Tests that need a GPU skip where there is none; where
# CUDA is built, most of them run on simulated ones as well.
#
#   test.sh [--cpp | --python] [ARGUMENT...]
#
# With --cpp the arguments go to ctest (test.sh --cpp -R kernels), with --python to pytest
# (test.sh --python -k parity).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

cpp=1
python=1
case ${1-} in
  -h | --help) help && exit ;;
  --cpp) python= && shift ;;
  --python) cpp= && shift ;;
esac
[[ $cpp && $python && $# -gt 0 ]] && die "arguments need --cpp or --python before them; see --help"

"$root/scripts/build.sh"

if [[ $cpp ]]; then
  say "C++ tests"
  [[ -x $build/test/operators_test ]] || die "the C++ tests were not built: GoogleTest (libgtest-dev) is missing"
  ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" "$@"
fi
if [[ $python ]] && compgen -G "$root/test/python/test_*.py" >/dev/null; then
  say "Python tests"
  cd "$root"
  TORCHBN_LIBRARY=${TORCHBN_LIBRARY:-$build/libtorchbn.so} "$venv/bin/python" -m pytest test/python "$@"
  simulated=$build/test/simulated_gpu/libcuda.so.1
  if [[ -e $simulated ]]; then
    say "Python tests on simulated GPUs"
    LD_PRELOAD=$simulated TORCHBN_LIBRARY=$simulated "$venv/bin/python" -m pytest -m gpu test/python "$@" ||
      [[ $? -eq 5 ]]  # none of the tests that the arguments ask for
  fi
fi
