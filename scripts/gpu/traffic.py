"""Bytes that ncu counts, beside those that the model predicts.

The model has two numbers per call, in tensors of the input's size: those that the kernels which ran
touch as they are written, each reading all of its inputs, and those that have to move at least. What
memory has moved lies between them where a later kernel still finds something in the cache, and where a
cooperative kernel has kept something on chip.

traffic_case.py makes the calls; between two of them it starts a kernel of torch's whose name tells
it from all others, so that the kernels between two such marks are those of one call.
"""

import csv
import json
import pathlib
import re
import shutil
import sys

import process
from kernel_names import brief

READ, WRITTEN, CACHE, TIME = METRICS = [
    "dram__bytes_read.sum", "dram__bytes_write.sum", "lts__t_bytes.sum", "gpu__time_duration.sum"]
MARK = "spin_kernel"  # torch.cuda._sleep

# (read, written) by each kind of kernel of ours, and by any implementation at least.
KERNELS = {"MomentReduction": (1, 0), "GradientReduction": (2, 0), "EvaluationReduction": (2, 1),
           "Normalize": (1, 1), "InputGradient": (2, 1), "TrainPass": (1, 1), "BackwardPass": (2, 1)}
LEAST = {"train": (1, 1), "backward": (2, 1), "eval": (1, 1), "eval_backward": (2, 1)}


def least(operation, tensor_bytes):
    """Bytes (read, written)."""
    return [tensors * tensor_bytes for tensors in LEAST[operation]]


def passes(names, tensor_bytes):
    """Bytes (read, written) by the kernels of these names, where what does not fit on the device is
    all; None where none is one of ours."""
    ours = [(read * (2 if "cooperative<" in name else 1), written)
            for name in names for kind, (read, written) in KERNELS.items() if f"{kind}<" in name]
    return [sum(column) * tensor_bytes for column in zip(*ours, strict=True)] or None


def command(ncu, check, labels, log):
    case = pathlib.Path(__file__).with_name("traffic_case.py")
    # The table has a file of its own: what the calls print would end up in the middle of it.
    return [ncu, "--log-file", str(log),
            "--csv", "--page", "raw", "--print-units", "base", "--metrics", ",".join(METRICS),
            # Only what lies between cudaProfilerStart and Stop.
            "--profile-from-start", "off",
            # As a user's call finds the cache and the clocks, rather than flushed and locked.
            "--cache-control", "none", "--clock-control", "none",
            sys.executable, str(case), "--labels", str(labels), *(["--quick"] * check.quick)]


def rows_of(text):
    """The kernels in ncu's output, in order: {"name", metric: value, ...}. The table's second line
    has the units."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    if not lines:
        return []
    header, *rows = csv.reader(lines)
    missing = [metric for metric in METRICS if metric not in header]
    if missing:
        raise ValueError(f"ncu's table has no column {missing[0]}")
    units, *rows = rows
    unit = dict(zip(header, units, strict=True))
    for metric in (READ, WRITTEN, CACHE):
        if unit[metric] != "byte":
            raise ValueError(f"ncu gives {metric} in {unit[metric]!r} and not in bytes")
    if unit[TIME] not in ("ns", "nsecond"):
        raise ValueError(f"ncu gives {TIME} in {unit[TIME]!r} and not in nanoseconds")
    found = []
    for row in rows:
        cells = dict(zip(header, row, strict=True))
        found.append({"name": cells["Kernel Name"],
                      **{metric: number(cells[metric]) for metric in METRICS}})
    return found


def number(text):
    """None for a metric that this GPU does not have."""
    text = text.replace(",", "")
    return float(text) if re.fullmatch(r"-?[0-9.]+(e[+-]?\d+)?", text) else None


def calls_of(rows):
    """The rows between two marks."""
    calls = []
    for row in rows:
        if MARK in row["name"]:
            calls.append([])
        elif calls:
            calls[-1].append(row)
    return calls


def total(kernels, metric):
    values = [kernel[metric] for kernel in kernels]
    return None if None in values else int(sum(values))


def table(labels, rows):
    """One entry per call: what was called, the prediction, and what ncu has counted."""
    calls = calls_of(rows)
    if len(calls) != len(labels):
        raise ValueError(f"ncu has seen {len(calls)} calls of {len(labels)}")
    entries = []
    for label, kernels in zip(labels, calls, strict=True):
        size = label["tensor_bytes"]
        entries.append({
            **label, "passes": passes([k["name"] for k in kernels], size),
            "least": least(label["operation"], size),
            "dram": [total(kernels, READ), total(kernels, WRITTEN)],
            "l2": total(kernels, CACHE),
            "kernels": [{"name": brief(k["name"]), "dram": [k[READ], k[WRITTEN]], "l2": k[CACHE],
                         "microseconds": k[TIME] and k[TIME] / 1e3} for k in kernels]})
    return entries


def no_counters(output):
    """Why ncu has counted nothing, where the machine does not let it: what it says itself."""
    known = r"^==.*(ERR_NVGPUCTRPERM|Failed to initialize the profiler|not supported)"
    for line in output.splitlines():
        if re.search(known, line):
            return line.lstrip("= ").removeprefix("ERROR").lstrip("= ").strip()
    return None


def run(check):
    ncu = shutil.which("ncu") or shutil.which("ncu", path="/usr/local/cuda/bin")
    if not ncu:
        return {"skipped_because": "ncu is missing"}
    labels, log, printed = (check.work / name for name in ("labels.json", "ncu.csv", "ncu.txt"))
    with printed.open("w") as stream:
        status = process.start(command(ncu, check, labels, log), check.seconds(), stdout=stream,
                               stderr=stream)
    output = f"{process.read(log)}\n{process.read(printed)}"
    reason = no_counters(output)
    if reason:
        return {"skipped_because": f"ncu does not work here: {reason}"}
    if status != 0:
        print("\n".join(output.splitlines()[-20:]), file=sys.stderr)
        return {"passed": False, "timed_out": status is None}
    return {"passed": True, "metrics": METRICS,
            "calls": table(json.loads(labels.read_text()), rows_of(process.read(log)))}
