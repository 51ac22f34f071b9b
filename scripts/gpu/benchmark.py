"""The benchmark, as far as it fits in a check: its own full run takes longer."""

import sys

import peers
import process

# Starting, the case that has begun at the deadline, and the tables.
SPARE_SECONDS = 20


def command(check):
    arguments = ["--device", "cuda", "--quick", "--seconds", "0.05", "--out", str(check.out),
                 "--deadline", f"{check.seconds() - SPARE_SECONDS:.0f}"]
    if check.quick:
        arguments += ["--peers", "aten", "--rounds", "5"]
    else:
        # Compiling would take most of the time.
        arguments += ["--peers", *peers.names_of("cuda", compiles=False),
                      "--dtype", "float32", "bfloat16"]
    return [sys.executable, str(check.root / "scripts" / "bench" / "bench.py"), *arguments]


def run(check):
    status = process.start(command(check), check.seconds())
    reason = {"timed_out": True} if status is None else {}
    # The numbers are in the benchmark's own file, bench_<GPU>.json.
    return {"passed": status == 0, **reason}
