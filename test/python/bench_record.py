"""Results of the benchmark without its times: made up, in the form that bench.py leaves."""

import random

import cases
import summary


def result(ratio=2.0, shape=(2, 3), *, operation="train", layout="channels_first",
           dtype="float32", inductor=None, of_floor=0.5):
    """One in which ATen takes `ratio` times as long as torchbn's millisecond."""
    times = {"floor": [of_floor * 1e-3] * 9, "aten": [ratio * 1e-3] * 9}
    if inductor:
        times["inductor"] = [inductor * 1e-3] * 9
    return {"operation": operation, "dtype": dtype, "layout": layout, "mode": "call",
            "shape": cases.shape_name(shape), **summary.summarize({**times, "torchbn": [1e-3] * 9}),
            "faults": dict.fromkeys([*times, "torchbn"], 0),
            "errors": dict.fromkeys([*list(times)[1:], "torchbn"], 0.5)}


def run(results, malloc="default", threads=2):
    return {"malloc": malloc, "threads": threads, "seconds": 1, "stolen_percent": 0.0, "notes": [],
            "results": results}


def record(*runs, cache=2**25):
    return {"command": "scripts/bench.sh", "device": "cpu", "device_model": "Chip",
            "cpu_model": "Chip", "cpus": 2, "governor": None, "last_level_cache_bytes": cache,
            "cache": "hot: every call works on the same tensors", "versions": {"torch": "2.0"},
            "pinned": False, "load_average": [0.0, 1.0], "runs": list(runs)}


def full_record():
    """As large as a full run in both allocation modes, with numbers as long as real ones."""
    generator = random.Random(0)

    def measured(case):
        floor = case.minimal_bytes / 12.3456e9
        times = {name: [floor * factor * generator.gauss(1, 0.05) for _ in range(15)]
                 for name, factor in (("floor", 1), ("aten", generator.uniform(0.8, 9)),
                                      ("inductor", generator.uniform(0.8, 4)), ("torchbn", 1.3))}
        return {"operation": case.operation, "dtype": case.dtype, "layout": case.layout,
                "mode": "call", "shape": cases.shape_name(case.shape), **summary.summarize(times),
                "faults": dict.fromkeys(times, 25102),
                "errors": {"aten": 0.32, "inductor": 0.41, "torchbn": 0.22}}

    return record(*(run([measured(case) for case in cases.select("cpu")], malloc)
                    for malloc in ("default", "warm")))
