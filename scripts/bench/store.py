"""Results as files, small enough to be kept: rows instead of dictionaries, and no single rounds.

A record says where and how it was measured and has a list of runs, one for each allocation mode and
number of threads, whose results are dictionaries in memory. Beside them stand the cases that have
failed and those that were left out, as everything was that had not begun when the file was written.

In the file a result is a list, named by "fields", that begins with the position of its case in
"cases"; what it holds per contestant stands in the order of "contestants", null for one that has
none."""

import json
import re

CASE = ["operation", "dtype", "shape", "layout", "mode"]
COUNTS = ["rounds", "discarded"]
PER_CONTESTANT = ["microseconds", "ratios", "faults", "errors"]
FIELDS = ["case", *COUNTS, *PER_CONTESTANT]
MEANING = {
    "microseconds": "median, lower and upper quartile over the rounds",
    "ratios": "contestant's time / torchbn's: median and 95% interval of the rounds' ratios",
    "faults": "minor page faults of one call",
    "errors": "worst error against float64, in units of what a rounded computation may be off",
}


def contestants_of(record):
    """Ours is the last one."""
    found = dict.fromkeys(name for run in record["runs"] for result in run["results"]
                          for name in result["microseconds"])
    return [*(name for name in found if name != "torchbn"), "torchbn"]


def pack(result, contestants, places):
    place = places.setdefault(tuple(result[name] for name in CASE), len(places))

    def values(field):
        found = [result.get(field, {}).get(name) for name in contestants]
        while found and found[-1] is None:
            found.pop()
        return found

    return [place, *(result[name] for name in COUNTS), *map(values, PER_CONTESTANT)]


def unpack(row, contestants, known):
    place, *counts = row[:-len(PER_CONTESTANT)]
    result = {**dict(zip(CASE, known[place], strict=True)),
              **dict(zip(COUNTS, counts, strict=True))}
    for field, values in zip(PER_CONTESTANT, row[-len(PER_CONTESTANT):], strict=True):
        cells = zip(contestants, values, strict=False)  # nothing at the end is left out
        result[field] = {name: value for name, value in cells if value is not None}
    return result


def dumps(record):
    contestants, places, lines = contestants_of(record), {}, []

    def line(value):
        lines.append(json.dumps(value, separators=(",", ":")))
        return f"line {len(lines) - 1}"

    runs = [{**run, "results": [line(pack(r, contestants, places)) for r in run["results"]]}
            for run in record["runs"]]
    outline = {**record, "contestants": line(contestants), "fields": line(FIELDS),
               "meaning": MEANING, "cases": [line(case) for case in places], "runs": runs}
    return re.sub(r'"line (\d+)"', lambda m: lines[int(m[1])], json.dumps(outline, indent=0)) + "\n"


def loads(text):
    record = json.loads(text)
    if record.pop("fields", None) != FIELDS:
        raise ValueError("not a result of this version of bench.py")
    contestants, known = record.pop("contestants"), record.pop("cases")
    record.pop("meaning")
    for run in record["runs"]:
        run["results"] = [unpack(row, contestants, known) for row in run["results"]]
    return record


def save(path, record):
    """At no moment is there half a file."""
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(dumps(record))
    beside.replace(path)


def load(path):
    try:
        return loads(path.read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SystemExit(f"{path.name} cannot be read: {why}") from error


def merge(records):
    """The runs of all, described as the first."""
    first, *_ = records
    return {**first, "runs": [run for record in records for run in record["runs"]]}
