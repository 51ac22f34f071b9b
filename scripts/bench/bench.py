"""Measures torchbn against PyTorch's own batch norm and against a copy.

In every round a plain copy of the same tensors (the floor), ATen's batch norm (F.batch_norm as
PyTorch dispatches it) and torchbn run one after the other, in rotated order. Reported are the
median of the rounds' ratios with a 95% interval, times, and GB/s of the bytes that have to move.
Before a case is timed, its results are compared with float64.

Operations: train (forward), train_step (forward and backward through autograd), eval (forward).

examples:
  bench.py --quick
  bench.py --operation train --layout channels_last --threads 1 --malloc warm
  bench.py --shapes 32x64x112x112 8x3x17x19 --dtype float32 --json result.json
"""

import argparse
import json
import os
import pathlib
import sys

import cases
import measure
import report
import torch

try:
    from tqdm import tqdm
except ImportError:
    def tqdm(items, **_):
        return items

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The C library then keeps freed memory: outputs come without page faults.
WARM_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU (default: as torch has it)")
    parser.add_argument("--quick", action="store_true", help="few shapes and rounds, float32")
    parser.add_argument("--shapes", nargs="+", type=cases.parse_shape, metavar="NxC[x...]",
                        help="instead of the built-in ones")
    parser.add_argument("--dtype", nargs="+", choices=list(cases.ITEM_SIZE))
    parser.add_argument("--layout", nargs="+", choices=cases.LAYOUTS)
    parser.add_argument("--operation", nargs="+", choices=cases.OPERATIONS)
    parser.add_argument("--seconds", type=float, help="per case (default: 2, quick 0.5)")
    parser.add_argument("--rounds", type=int, help="at least, per case (default: 15, quick 7)")
    parser.add_argument("--malloc", choices=["default", "warm"], default="default",
                        help="warm: the C library keeps freed memory, so that new outputs cause "
                             "no page faults; restarts this program with that setting")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the results there")
    parser.add_argument("--out", type=pathlib.Path, metavar="DIR",
                        help="write DIR/bench_DEVICE.json, named after the device's model")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    if options.malloc == "warm" and options.device == "cuda":
        parser.error("--malloc warm is about the memory of the CPU")
    options.seconds = options.seconds or (0.5 if options.quick else 2)
    options.rounds = options.rounds or (7 if options.quick else 15)
    return options


def restart_with_warm_malloc():
    """glibc reads these variables when a process starts."""
    if any(os.environ.get(name) != value for name, value in WARM_MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **WARM_MALLOC})


def load_library():
    path = pathlib.Path(os.environ.get("TORCHBN_LIBRARY", ROOT / "build" / "libtorchbn.so"))
    if not path.is_file():
        sys.exit("there is no torchbn library: run scripts/build.sh, or name one with "
                 "TORCHBN_LIBRARY")
    torch.ops.load_library(str(path.resolve()))


def check(case, problem, contestants):
    """The contestants' errors; ours have to be right before they are fast."""
    errors = {name: problem.errors(contestants[name]()) for name in ("aten", "torchbn")}
    wrong = {what: error for what, error in errors["torchbn"].items() if not error <= 1}
    if wrong:
        sys.exit(f"{case.name}: torchbn is wrong; errors in units of the allowed one: {wrong}")
    return errors


def run_case(case, options):
    """The results of one case: one, or on a GPU two, calls as such and in a graph."""
    problem = measure.Problem(case, options.device)
    contestants = problem.contestants()
    common = {"operation": case.operation, "dtype": case.dtype, "layout": case.layout,
              "shape": cases.shape_name(case.shape), "minimal_bytes": case.minimal_bytes,
              "errors": check(case, problem, contestants)}
    limits = dict(seconds=options.seconds, least_rounds=options.rounds)
    if options.device == "cpu":
        times = measure.run_rounds(contestants, measure.CpuClock(), **limits)
        faults = {name: measure.page_faults(call) for name, call in contestants.items()}
        yield {**common, "mode": "call", **measure.summarize(times, case.minimal_bytes),
               "page_faults": faults, "times": times}
        return
    clock = measure.CudaClock()
    times = measure.run_rounds(contestants, clock, **limits)
    yield {**common, "mode": "call", **measure.summarize(times, case.minimal_bytes), "times": times}
    calls = 20
    graphs = {name: measure.captured(call, calls) for name, call in contestants.items()}
    times = measure.run_rounds(graphs, clock, **limits)
    times = {name: [t / calls for t in samples] for name, samples in times.items()}
    yield {**common, "mode": "graph", **measure.summarize(times, case.minimal_bytes),
           "times": times}


def main(arguments):
    options = parse(arguments)
    if options.malloc == "warm":
        restart_with_warm_malloc()
    if options.threads:
        torch.set_num_threads(options.threads)
    load_library()

    chosen = cases.select(options.device, quick=options.quick, shapes=options.shapes,
                          layouts=options.layout, dtypes=options.dtype,
                          operations=options.operation)
    results = []
    load = [report.load_average()]
    for case in tqdm(chosen, unit="case", file=sys.stderr):
        results.extend(run_case(case, options))

    environment = {**report.environment(options, arguments),
                   "load_average": [*load, report.load_average()]}
    files = [options.json] if options.json else []
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        files.append(options.out / f"bench_{report.slug(environment['device_model'])}.json")
    for path in files:
        path.write_text(json.dumps({**environment, "overall": report.overall(results),
                                    "results": results}, indent=1) + "\n")
    if load[0] is not None and load[0] > 0.5:
        print(f"the machine was busy before this began (load average {load[0]:.1f}): measure again",
              file=sys.stderr)
    print((report.markdown if options.markdown else report.plain)(environment, results), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
