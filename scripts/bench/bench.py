"""Measures torchbn against its peers and against a floor.

In every round the floor (the same traffic without work), the peers and torchbn run one after the
other, in balanced order. Reported are medians of the rounds' ratios with 95% intervals, against
every peer and, as the headline, against the best one of each case. Rounds whose floor is more than
15% off its median are left out. Before a case is timed, its results are compared with float64. The
results are saved after every case. Where one fails, the others are still measured, and the exit
status is 1.

operations and their floors:
  train          forward, without gradients             copy
  backward       the gradients of a kept graph alone    sum of x and dy
  train_step     forward and backward                   copy, then sum
  eval           forward with running statistics        copy
  eval_backward  the gradients of a kept graph of eval  sum of x and dy

peers:
  aten        F.batch_norm as PyTorch dispatches it, cudnn.benchmark being on
  inductor    F.batch_norm under torch.compile(dynamic=False); compiling is not
              timed, checking before each call that the graph fits is
on a GPU also:
  native            PyTorch's own kernels where it would rather call cuDNN
  inductor_max      the same as inductor with max-autotune, without its graphs
  cudnn             cuDNN's own library, mode SPATIAL; called through ctypes, so
  cudnn_persistent  and SPATIAL_PERSISTENT         look at its graphs, not calls
  cudnn_graph       cuDNN's graph interface, likewise, by the package
                    nvidia-cudnn-frontend where that is installed

On a GPU every case is measured in four modes: single calls, as users make them, and CUDA graphs of
20 or more, the time of the kernels alone; each hot, on the same tensors, and cold, on tensors that
take turns and are more than three times the last-level cache; not cold where these would be more
than 128.

Threads are not pinned unless --pin is given, because users' are not. Every combination of --malloc
and --threads is a process of its own.

examples:
  bench.py --quick
  bench.py --malloc both --threads 1 2 --json result.json --plot pictures
  bench.py --shapes 32x64x112x112 8x3x17x19 --dtype float32 --peers aten
  bench.py --threads 1 --shapes 32x64 --dtype float32 --peers aten
"""

import argparse
import importlib.util
import itertools
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import cases
import contest
import machine
import peers
import report
import store
import torch

try:
    from tqdm import tqdm
except ImportError:
    def tqdm(items, **_):
        return items

ROOT = pathlib.Path(__file__).resolve().parents[2]


def positive(text):
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a number of 1 or more, not {text!r}")
    return value


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"seconds above 0, not {text!r}")
    return value


def shape(text):
    try:
        return cases.parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_outputs(options, parser):
    """Whatever would fail when all is measured, and take the results with it."""
    if options.json and options.json.is_dir():
        parser.error(f"--json {options.json} is a folder")
    for folder in filter(None, (options.json and options.json.parent, options.out, options.plot)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"{folder}: {error.strerror}")
        if not os.access(folder, os.W_OK):
            parser.error(f"{folder} can't be written to")
    # Not imported before everything is measured.
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--quick", action="store_true", help="few shapes and rounds, float32, without inductor")
    add("--threads", nargs="+", type=positive, metavar="N",
        help="of the CPU, one run for each number (default: as torch has it)")
    add("--malloc", choices=["default", "warm", "both"], default="default",
        help="warm: the C library keeps freed memory, so that new outputs cause no page faults; "
             "both: one run each, side by side")
    add("--pin", action="store_true", help="bind threads to cores (OMP_PROC_BIND, OMP_PLACES)")
    add("--peers", nargs="+", choices=peers.NAMES, help="default: all of the device; quick: aten")
    add("--shapes", nargs="+", type=shape, metavar="NxC[x...]",
        help="instead of the built-in ones")
    add("--dtype", nargs="+", choices=list(cases.ITEM_SIZE))
    add("--layout", nargs="+", choices=cases.LAYOUTS)
    add("--operation", nargs="+", choices=cases.OPERATIONS,
        help="default: all but eval_backward; on a GPU all but train_step")
    add("--seconds", type=seconds, help="per case (default: 2, quick 0.3)")
    add("--rounds", type=positive, help="at least, per case (default: 15, quick 7)")
    add("--deadline", type=float, metavar="SECONDS",
        help="begin no further case after so many; what is left out is said")
    add("--json", type=pathlib.Path, metavar="FILE", help="write the results there")
    add("--out", type=pathlib.Path, metavar="DIR",
        help="write DIR/bench_DEVICE.json, named after the device's model")
    add("--plot", type=pathlib.Path, metavar="DIR", help="draw pictures there")
    add("--markdown", action="store_true", help="print the tables as Markdown")
    add("--part", action="store_true", help=argparse.SUPPRESS)  # one run of several
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    if options.device == "cuda" and options.malloc != "default":
        parser.error(f"--malloc {options.malloc} is about the memory of the CPU")
    options.seconds = options.seconds or (0.3 if options.quick else 2)
    options.rounds = options.rounds or (7 if options.quick else 15)
    options.peers = options.peers or (
        ["aten"] if options.quick else peers.names_of(options.device))
    options.cases = cases.select(options.device, quick=options.quick, shapes=options.shapes,
                                 layouts=options.layout, dtypes=options.dtype,
                                 operations=options.operation)
    if options.deadline is not None:
        # What is left out is then of the last shapes, and not of the last operations and types.
        order = [case.shape for case in options.cases]
        options.cases.sort(key=lambda case: order.index(case.shape))
    options.threads = list(dict.fromkeys(options.threads or []))
    options.end = time.monotonic() + (math.inf if options.deadline is None else options.deadline)
    if not options.cases:
        parser.error("no case is left: with one channel or one value per plane there is only the "
                     "layout channels_first")
    check_outputs(options, parser)
    return options


def load_library():
    path = pathlib.Path(os.environ.get("TORCHBN_LIBRARY") or ROOT / "build" / "libtorchbn.so")
    if not path.is_file():
        sys.exit("there is no torchbn library: run scripts/build.sh, or name one with "
                 "TORCHBN_LIBRARY")
    try:
        torch.ops.load_library(str(path.resolve()))
    except OSError as error:
        sys.exit(f"this torch can't load the library: {error}")


def estimate(options, chosen):
    """Seconds that a run takes, roughly: rounds at 5 GB/s where they outlast the time of a case, 30
    ns per value for filling and checking (on a GPU 1 TB/s, 1 ns and four modes), and 3 s for each
    graph that is not in the compiler's cache yet."""
    compiled = sum(peer.compiles for peer in chosen)
    modes, speed, slow = (1, 5e9, 30e-9) if options.device == "cpu" else (4, 1e12, 1e-9)
    measured = sum(
        modes * max(options.seconds, options.rounds * (2 + len(chosen)) * c.minimal_bytes / speed)
        + 0.2 + slow * math.prod(c.shape) for c in options.cases)
    return measured, 3 * sum(c.graphs for c in options.cases) * compiled


def announce(options, runs):
    """What is to come, and who will be missing."""
    chosen, notes = peers.choose(options.peers, options.device)
    for note in notes:
        print(note, file=sys.stderr)
    measured, compiling = estimate(options, chosen)
    text = f"cases: {len(options.cases)}, runs: {runs}, about "
    text += f"{math.ceil(measured * runs / 60)} min"
    if compiling:
        text += f", and up to {math.ceil(compiling / 60)} min for compiling the first time"
    print(text, file=sys.stderr)


def save(options, record):
    files = [options.json] if options.json else []
    if options.out and not options.part:
        files.append(options.out / f"bench_{machine.slug(record['device_model'])}.json")
    for path in files:
        store.save(path, record)


def run(options, arguments):
    """The record of a single run, in this process; saved after each case."""
    if options.threads:
        torch.set_num_threads(options.threads[0])
    load_library()
    torch.backends.cudnn.benchmark = True
    chosen, notes = peers.choose(options.peers, options.device)
    gpu = options.device == "cuda"
    measured = {"malloc": options.malloc, "threads": torch.get_num_threads(), "seconds": 0,
                "stolen_percent": None, "notes": notes, "failed": [],
                "left_out": [case.name for case in options.cases], "results": []}
    record = {
        "command": machine.command_of(arguments), **machine.describe(options.device),
        "pinned": options.pin, "load_average": [machine.load_average()],
        **({"clocks": [machine.clocks()]} if gpu else {}), "runs": [measured]}
    ticks, start = machine.stolen_ticks(), time.monotonic()
    for case in tqdm(options.cases, unit="case", file=sys.stderr,
                     desc=f"{options.malloc}, threads {torch.get_num_threads()}"):
        if time.monotonic() > options.end:
            break
        try:
            found, more = contest.run_case(case, options, chosen)
        except Exception as error:
            found, more = [], []
            measured["failed"].append({"case": case.name, "why": machine.brief_error(error)})
            print(f"\nFAILED: {case.name}: {error}", file=sys.stderr)
        more = [note for note in more if note not in notes]
        for note in more:
            print(f"\n{note}", file=sys.stderr)
        notes += more
        measured["results"] += found
        measured["left_out"].remove(case.name)
        measured["seconds"] = round(time.monotonic() - start)
        save(options, record)
    measured["stolen_percent"] = machine.stolen_percent(ticks, machine.stolen_ticks())
    record["load_average"].append(machine.load_average())
    if gpu:
        record["clocks"].append(machine.clocks())
    save(options, record)
    return record


def run_elsewhere(options, arguments, malloc, threads):
    """The same in a process that starts with what malloc and the threads' binding are read from."""
    needed = machine.variables(malloc, options.pin)
    environment = {**os.environ, **{k: v for k, v in needed.items() if v}}
    for name in [k for k, v in needed.items() if not v]:
        environment.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "part.json"
        command = [sys.executable, str(pathlib.Path(__file__).resolve()), *arguments, "--part",
                   "--malloc", malloc, "--json", str(path),
                   "--deadline", str(options.end - time.monotonic()),
                   *(["--threads", str(threads)] if threads else [])]
        status = subprocess.run(command, env=environment, check=False).returncode
        if status and not path.exists():
            sys.exit(status)
        record = store.load(path)
        (measured,) = record["runs"]
        if status and not measured["failed"]:
            measured["failed"].append({"case": "what was left out", "why": f"exit status {status}"})
        return record


def run_all(options, arguments):
    modes = ["default", "warm"] if options.malloc == "both" else [options.malloc]
    runs = list(itertools.product(modes, options.threads or [None]))
    needed = machine.variables(options.malloc, options.pin)
    load = machine.load_average()
    announce(options, len(runs))
    if len(runs) == 1 and all(os.environ.get(name) == value for name, value in needed.items()):
        return run(options, arguments)
    records = []
    for which in runs:
        records.append(run_elsewhere(options, arguments, *which))
        record = {**store.merge(records), "command": machine.command_of(arguments),
                  "load_average": [load, machine.load_average()]}
        save(options, record)
    return record


def end(record):
    if any(run.get("failed") for run in record["runs"]):
        sys.exit(1)


def main(arguments):
    options = parse(arguments)
    if options.part:
        return end(run(options, arguments))
    record = run_all(options, arguments)
    if options.plot:
        import plot
        for path in plot.draw(record, options.plot):
            print(f"drawn: {path.name}", file=sys.stderr)
    print(report.text(record, options.markdown), end="")
    load = record["load_average"][0]
    if load is not None and load > 0.5:
        print(f"the machine was busy before this began (load average {load:.1f}): measure again",
              file=sys.stderr)
    end(record)


if __name__ == "__main__":
    main(sys.argv[1:])
