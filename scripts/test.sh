#!/usr/bin/env bash
# Runs the tests, after setup and build: the C++ programs and the consumer projects through ctest,
# then those in test/python through pytest. Tests that need a GPU skip where there is none; where
# CUDA is built, most of them run on simulated ones as well.
#
#   test.sh [--cpp | --python] [ARGUMENT...]
#
# With --cpp the arguments go to ctest (test.sh --cpp -R internals), with --python to pytest
# (test.sh --python -k parity), which runs a process for each core (-n 0: all in one, which shows what
# tests print and can stop in a debugger).

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
  # Each process has threads for all cores as well: those that wait must not take the others' time.
  export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
  pytest=("$venv/bin/python" -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal test/python)
  TORCHBN_LIBRARY=${TORCHBN_LIBRARY:-$build/libtorchbn.so} "${pytest[@]}" "$@"
  simulated=$build/test/simulated_gpu/libcuda.so.1
  if [[ -e $simulated ]]; then
    say "Python tests on simulated GPUs"
    LD_PRELOAD=$simulated TORCHBN_LIBRARY=$simulated "${pytest[@]}" -m gpu "$@" ||
      [[ $? -eq 5 ]]  # none of the tests that the arguments ask for
  fi
fi
