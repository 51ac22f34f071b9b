#!/usr/bin/env bash
# Runs what needs a GPU and writes one JSON report: C++ tests, Python tests, benchmark.
#
#   gpu_check.sh [--out DIR] [--no-bench]
#
#   --out DIR   where the report goes (default: scripts/bench/results)
#   --no-bench  tests only
#
# Needs no network and installs nothing: takes $PYTHON, or else the python3 or .venv that has torch,
# and the build/ that is there, even one made on another machine; where there is none it builds one
# (the library alone where GoogleTest is missing). The report names the GPU, its driver and the versions
# of torch and CUDA, but no host and no path.
#
# Exit status: 0 all passed, 1 something failed, 2 there is no GPU (nothing is written).

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command="scripts/gpu_check.sh${*:+ $*}"
out=$root/scripts/bench/results
bench=1
while (($#)); do
  case $1 in
    --out)
      [[ ${2-} ]] || die "--out takes a folder"
      out=$2
      command=${command/"$2"/DIR}
      shift
      ;;
    --no-bench) bench= ;;
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

mkdir -p "$out"
out=$(cd "$out" && pwd)

if [[ ! -e $build/libtorchbn.so ]]; then
  say "Building"
  cmake -S "$root" -B "$build" -G Ninja -DTORCHBN_CUDA=ON -DTORCHBN_PYTHON="$python"
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

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

for path in "$build"/test/*_test; do
  program=${path##*/}
  if [[ -x $path ]]; then
    say "C++: $program"
    "$path" --gtest_brief=1 --gtest_output="json:$work/cpp_$program.json" || failed=1
    [[ -e $work/cpp_$program.json ]] || echo '{}' >"$work/cpp_$program.json"
  fi
done

if ! compgen -G "$root/test/python/test_*.py" >/dev/null; then
  :
elif "$python" -c 'import pytest' 2>/dev/null; then
  say "Python: pytest -m gpu"
  # 5 is pytest's word for "no such test".
  (cd "$root" && "$python" -m pytest -m gpu -p no:cacheprovider --junit-xml="$work/python.xml" test/python) ||
    { status=$?; ((status == 5)) || failed=1; }
else
  warn "this Python has no pytest: the tests in test/python were not run"
fi

if [[ $bench && -e $root/scripts/bench/bench.py ]]; then
  say "Benchmark"
  "$python" "$root/scripts/bench/bench.py" --device cuda --out "$out" || failed=1
fi

say "Report"
COMMAND=$command FAILED=$failed "$python" - "$work" "$out" <<'PYTHON'
import json, os, pathlib, re, subprocess, sys
import xml.etree.ElementTree as ElementTree

import torch

work, out = map(pathlib.Path, sys.argv[1:])
tests = {}
for path in sorted(work.glob("cpp_*.json")):
    report = json.loads(path.read_text())
    cases = [case for suite in report.get("testsuites", []) for case in suite["testsuite"]]
    tests[path.stem.removeprefix("cpp_")] = {
        "finished": bool(report),
        "run": sum(case["result"] == "COMPLETED" for case in cases),
        "skipped": sum(case["result"] == "SKIPPED" for case in cases),
        "failed": [f"{case['classname']}.{case['name']}" for case in cases if "failures" in case],
    }
if (work / "python.xml").exists():
    cases = list(ElementTree.parse(work / "python.xml").iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    tests["pytest -m gpu"] = {
        "finished": True,
        "run": len(cases) - len(skipped),
        "skipped": len(skipped),
        "failed": [f"{case.get('classname')}.{case.get('name')}" for case in failed],
    }

device = torch.cuda.get_device_properties(0)
try:
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()[0].strip()
except (OSError, subprocess.CalledProcessError, IndexError):
    driver = None
report = {
    "command": os.environ["COMMAND"],
    "passed": os.environ["FAILED"] == "0",
    "device": {
        "name": device.name,
        "compute_capability": f"{device.major}.{device.minor}",
        "multiprocessors": device.multi_processor_count,
        "memory_gib": round(device.total_memory / 2**30, 1),
        "driver": driver,
    },
    "versions": {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]},
    "tests": tests,
}
name = re.sub(r"[^a-z0-9]+", "_", device.name.lower()).strip("_")
path = out / f"gpu_check_{name}.json"
path.write_text(json.dumps(report, indent=2) + "\n")
print(json.dumps(report, indent=2))
print(f"written: {path.name}")
PYTHON
exit "$failed"
