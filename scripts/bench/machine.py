"""What a result says of where it was measured. No host, no path."""

import os
import pathlib
import platform
import re
import subprocess
import sys

import torch

CPU = pathlib.Path("/sys/devices/system/cpu/cpu0")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}

# glibc then keeps freed memory: outputs come without page faults.
WARM_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "17179869184"}
PINNED = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}


def variables(malloc, pin):
    """The environment that a run needs from its start on; None: not set."""
    values = WARM_MALLOC if malloc == "warm" else dict.fromkeys(WARM_MALLOC)
    return {**values, **PINNED} if pin else values


def read(path):
    try:
        return pathlib.Path(path).read_text()
    except OSError:
        return ""


def cpu_model(cpuinfo="/proc/cpuinfo"):
    """With the numbers that tell generations apart: virtual machines shorten the names."""
    first = read(cpuinfo).partition("\n\n")[0]
    found = dict(re.findall(r"^(.*?)\s*:[ \t]*(.*)$", first, re.MULTILINE))
    if "model name" not in found:
        return platform.processor() or platform.machine()
    keys = {"family": "cpu family", "model": "model"}
    numbers = ", ".join(f"{name} {found[key]}" for name, key in keys.items() if key in found)
    return f"{found['model name']} ({numbers})" if numbers else found["model name"]


def device_model(device):
    return torch.cuda.get_device_name() if device == "cuda" else cpu_model()


def cache_bytes(device, cpu=CPU):
    """Of the last-level cache, or None where the system does not tell."""
    if device == "cuda":
        return torch.cuda.get_device_properties(0).L2_cache_size
    sizes = {}
    for index in sorted(cpu.glob("cache/index*")):
        size = re.fullmatch(r"(\d+)([KMG]?)", read(index / "size").strip())
        level = read(index / "level").strip()
        if size and level and read(index / "type").strip() != "Instruction":
            sizes[int(level)] = int(size[1]) * UNITS.get(size[2], 1)
    return sizes[max(sizes)] if sizes else None


def ask_gpu(*fields):
    """What nvidia-smi says of the first GPU, by field; nothing where it says nothing."""
    try:
        found = subprocess.run(
            ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(fields, (value.strip() for value in found.split(",")), strict=False))


def driver():
    return ask_gpu("driver_version").get("driver_version")


def clocks():
    """Of the GPU at this moment. They are as they come: nothing here sets them."""
    return ask_gpu("clocks.sm", "clocks.mem", "temperature.gpu")


def load_average():
    """Of the last minute; what else runs shows best in it before a measurement begins."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def stolen_ticks():
    """All ticks of the processors' clocks, and those that a hypervisor gave to others."""
    ticks = [int(t) for t in read("/proc/stat").partition("\n")[0].split()[1:9]]
    return (sum(ticks), ticks[7]) if len(ticks) == 8 else (0, 0)


def stolen_percent(before, after):
    total, stolen = (b - a for a, b in zip(before, after, strict=True))
    return round(100 * stolen / total, 2) if total else None


def governor():
    return read(CPU / "cpufreq/scaling_governor").strip() or None


def cpus():
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def slug(text):
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def brief_error(error):
    """Its first line; of the files in it only the names, because notes go into results."""
    line, *_ = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: " + re.sub(r"(?<![^\s'\"(=:])/(?:[^\s/]+/)*", "", line)


FILES = ("--json", "--out", "--plot")


def command_of(arguments):
    """The command as one would type it in the repository; of files only their names."""
    shown, is_file = [], False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in FILES:
            argument = option + equals + pathlib.PurePath(value).name if equals else option
        elif is_file:
            argument = pathlib.PurePath(argument).name
        is_file = argument in FILES
        shown.append(argument)
    return " ".join(["scripts/bench.sh", *shown])


def describe(device):
    return {
        "device": device,
        "device_model": device_model(device),
        "cpu_model": cpu_model(),
        "cpus": cpus(),
        "governor": governor(),
        "last_level_cache_bytes": cache_bytes(device),
        "cache": ("hot: every call works on the same tensors" if device == "cpu" else
                  "hot, and cold: calls rotate through three times the last-level cache"),
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda,
                     "python": sys.version.split()[0], "system": platform.system(),
                     **({"driver": driver()} if device == "cuda" else {}),
                     "cpu_capability": torch.backends.cpu.get_cpu_capability()},
    }
