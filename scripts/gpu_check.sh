#!/usr/bin/env bash
# Checks the CUDA side on a machine that has a GPU: four parts, each with one JSON result.
#
#   gpu_check.sh [--out DIR] [--only PART] [--quick] [--seconds N]
#
#   --out DIR    where the results go (default: scripts/bench/results)
#   --only PART  test      the C++ tests, and those in Python that need a GPU
#                bench     the benchmark, on few shapes (scripts/bench.sh has them all)
#                sanitize  compute-sanitizer over the tests that start every kernel once
#                profile   bytes that ncu counts, beside the model's
#   --quick      less of everything: 3 minutes rather than 9
#   --seconds N  as much as fits into so many
#
# A part whose tool is missing, or for which no time is left, is skipped and says so. Results name
# the GPU, its driver and the versions of torch and CUDA, but no host and no path.
#
# Needs no network and installs nothing: takes $PYTHON, or else the python3 or .venv that has torch,
# and the build/ that is there. Of one made on another machine it needs build/libtorchbn.so,
# build/test/internals_test and build/test/operators_test. Where there is none it builds one, for
# this GPU (the library alone where GoogleTest is missing).
#
# Exit status: 0 all passed, 1 something failed, 2 there is no GPU (nothing is written).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command=scripts/gpu_check.sh
out=$root/scripts/bench/results
options=()
while (($#)); do
  case $1 in
    --out)
      [[ ${2-} ]] || die "--out takes a folder"
      out=$2
      command+=" --out DIR"
      shift
      ;;
    --only)
      [[ ${2-} =~ ^(test|bench|sanitize|profile)$ ]] || die "--only takes test, bench, sanitize or profile"
      command+=" --only $2"
      options+=(--only "$2")
      shift
      ;;
    --quick)
      command+=" --quick"
      options+=(--quick)
      ;;
    --seconds)
      [[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "--seconds takes a number"
      command+=" --seconds $2"
      options+=(--seconds "$2")
      shift
      ;;
    -h | --help) help && exit ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done
python=
for candidate in ${PYTHON:+"$PYTHON"} python3 "$venv/bin/python"; do
  if "$candidate" -c 'import torch' 2>/dev/null; then
    python=$(command -v "$candidate")
    break
  fi
done
[[ $python ]] || die "no Python that has torch: tried ${PYTHON:-} python3 .venv; set \$PYTHON"

if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "No GPU: torch $("$python" -c 'import torch; print(torch.__version__)') sees no CUDA device, so nothing was checked." >&2
  exit 2
fi

if [[ ! -e $build/libtorchbn.so ]]; then
  say "Building"
  cmake -S "$root" -B "$build" -G Ninja -DTORCHBN_CUDA=ON -DTORCHBN_PYTHON="$python" \
    -DCMAKE_CUDA_ARCHITECTURES=native
  cmake --build "$build"
fi
export TORCHBN_LIBRARY=$build/libtorchbn.so
# A build that was made elsewhere looks for torch and the CUDA runtime where they were there.
libraries=$("$python" -c 'import os, torch
loaded = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
wanted = ("libtorch_cpu.so", "libcudart.so")
print(":".join(sorted({os.path.dirname(path) for path in loaded if os.path.basename(path).startswith(wanted)})))')
export LD_LIBRARY_PATH=$build:$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

if ! "$python" -c 'import os, sys, torch
torch.ops.load_library(os.environ["TORCHBN_LIBRARY"])
sys.exit(not torch._C._dispatch_has_kernel_for_dispatch_key("torchbn::batch_norm_train", "CUDA"))'; then
  die "build/libtorchbn.so does not load or has no CUDA kernels; remove build/ to have it built here"
fi

exec "$python" "$root/scripts/gpu/check.py" --root "$root" --build "$build" --out "$out" \
  --command "$command" ${options[@]+"${options[@]}"}
