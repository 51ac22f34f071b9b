"""What a run leaves behind: where it ran, a table, one JSON file. No host, no path."""

import math
import os
import pathlib
import platform
import re
import sys

import torch


def cpu_model():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def device_model(device):
    return torch.cuda.get_device_name() if device == "cuda" else cpu_model()


def load_average():
    """Of the last minute; what else runs shows best in it before a measurement begins."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def slug(text):
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def command_of(arguments):
    """The command as one would type it in the repository; of files only their names."""
    shown, is_file = [], False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in ("--json", "--out"):
            argument = option + equals + pathlib.PurePath(value).name if equals else option
        elif is_file:
            argument = pathlib.PurePath(argument).name
        is_file = argument in ("--json", "--out")
        shown.append(argument)
    return " ".join(["python scripts/bench/bench.py", *shown])


def environment(options, arguments):
    allocation = {name: os.environ[name] for name in
                  ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name in os.environ}
    return {
        "command": command_of(arguments),
        "device": options.device,
        "device_model": device_model(options.device),
        "cpu_model": cpu_model(),
        "threads": torch.get_num_threads(),
        "allocation": {"mode": options.malloc, **allocation},
        "cache": "hot: every call works on the same tensors",
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda,
                     "python": sys.version.split()[0], "system": platform.system(),
                     "cpu_capability": torch.backends.cpu.get_cpu_capability()},
    }


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def overall(results):
    """Per operation, type and mode: the geometric mean never without the worst case."""
    groups = {}
    for result in results:
        key = (result["operation"], result["dtype"], result["mode"])
        groups.setdefault(key, []).append(result)
    lines = []
    for (operation, dtype, mode), group in groups.items():
        worst = min(group, key=lambda r: r["speedup"]["median"])
        lines.append({
            "operation": operation, "dtype": dtype, "mode": mode, "cases": len(group),
            "geometric_mean": geometric_mean(r["speedup"]["median"] for r in group),
            "worst": worst["speedup"]["median"],
            "worst_case": f"{worst['shape']} {worst['layout']}",
            "lost": sum(r["speedup"]["high"] < 1 for r in group),
        })
    return lines


def duration(seconds):
    for unit, scale in (("s", 1), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e6:.2g} us"


def rows_of(results):
    for r in results:
        c = r["contestants"]
        yield [r["operation"], r["dtype"], r["shape"], r["layout"], r["mode"],
               duration(c["copy"]["seconds"]), duration(c["aten"]["seconds"]),
               duration(c["torchbn"]["seconds"]), f"{c['torchbn']['gb_per_s']:.1f}",
               f"{100 * r['of_floor']['median']:.0f}%",
               f"{r['speedup']['median']:.2f}",
               f"{r['speedup']['low']:.2f} to {r['speedup']['high']:.2f}"]


HEADER = ["operation", "dtype", "shape", "layout", "mode", "copy", "ATen", "torchbn", "GB/s",
          "of the copy's speed", "ATen / torchbn", "95% interval"]


def markdown(environment, results):
    e = environment
    load = e.get("load_average")
    busy = f", load average before it began {load[0]}" if load else ""
    lines = [
        f"`{e['command']}` on {e['device_model']}, {e['threads']} threads, torch "
        f"{e['versions']['torch']}, allocation {e['allocation']['mode']}, cache {e['cache']}"
        f"{busy}.",
        "",
        "| " + " | ".join(HEADER) + " |",
        "|" + "---|" * 5 + "---:|" * 6 + "---|",
        *("| " + " | ".join(row) + " |" for row in rows_of(results)),
        "",
        *(f"- {g['operation']} {g['dtype']} {g['mode']}: geometric mean "
          f"{g['geometric_mean']:.2f}, worst {g['worst']:.2f} ({g['worst_case']}); "
          f"{g['lost']} of {g['cases']} lost" for g in overall(results)),
    ]
    return "\n".join(lines) + "\n"


def plain(environment, results):
    """The same table for a terminal."""
    rows = [HEADER, *rows_of(results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    table = ["  ".join(cell.ljust(w) if i < 5 else cell.rjust(w)
                       for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]
    head, *_, = markdown(environment, []).splitlines()
    tail = [line for line in markdown(environment, results).splitlines() if line.startswith("- ")]
    return "\n".join([head.replace("`", ""), "", *table, "", *tail]) + "\n"
