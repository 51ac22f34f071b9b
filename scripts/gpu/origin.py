"""What a result says of where it comes from, and where it is written. No host, no path."""

import json
import sys

import machine
import torch


def origin(command):
    device = torch.cuda.get_device_properties(0)
    return {
        "command": command,
        "device": {
            "name": device.name,
            "compute_capability": f"{device.major}.{device.minor}",
            "multiprocessors": device.multi_processor_count,
            "memory_gib": round(device.total_memory / 2**30, 1),
            "driver": machine.driver(),
        },
        "versions": {"torch": torch.__version__, "cuda": torch.version.cuda,
                     "python": sys.version.split()[0]},
    }


def save(folder, part, record):
    """One file per part and GPU model, which a later run on the same model replaces."""
    path = folder / f"gpu_{part}_{machine.slug(record['device']['name'])}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    return path
