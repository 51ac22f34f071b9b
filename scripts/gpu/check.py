"""The parts of scripts/gpu_check.sh, which prepares the environment and explains the options."""

import argparse
import math
import os
import pathlib
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field

# The parts import some of the benchmark's modules.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))

import benchmark  # noqa: E402
import origin  # noqa: E402
import sanitize  # noqa: E402
import suites  # noqa: E402
import traffic  # noqa: E402
from machine import brief_error  # noqa: E402

# In order, what is wanted most first.
PARTS = {"test": suites.run, "bench": benchmark.run, "sanitize": sanitize.run,
         "profile": traffic.run}
# For all parts together, a minute less than the ten that machines are lent for, unless told
# otherwise. What is still running then is ended and counts as failed.
SECONDS = {False: 540, True: 180}
# In what proportion the parts share the time: what one leaves is for those behind it.
SHARES = {"test": 8, "bench": 5, "sanitize": 4, "profile": 3}
LEAST_SECONDS = 20  # for a part


@dataclass
class Check:
    """What every part is told."""

    root: pathlib.Path
    build: pathlib.Path
    out: pathlib.Path
    work: pathlib.Path
    quick: bool = False
    limit: float | None = None  # seconds for all parts
    environment: dict = field(default_factory=lambda: dict(os.environ))
    begin: float = field(default_factory=time.monotonic)
    end: float = math.inf  # of the part that runs

    def left(self):
        """Seconds for all parts that are to come."""
        return self.begin + (self.limit or SECONDS[self.quick]) - time.monotonic()

    def begin_part(self, parts):
        """The first of the parts begins, the others are to come."""
        share = SHARES[parts[0]] / sum(SHARES[part] for part in parts)
        self.end = time.monotonic() + min(self.left(), max(share * self.left(), LEAST_SECONDS))

    def seconds(self, fraction=1):
        """What a program may take that gets this fraction of what is left for the part."""
        return max(0, fraction * (self.end - time.monotonic()))


def result_of(check, part):
    if check.left() < LEAST_SECONDS:
        return {"skipped_because": "no time is left for it"}
    try:
        return PARTS[part](check)
    except Exception as error:  # the other parts, which have nothing to do with it, go on
        traceback.print_exc()
        return {"passed": False, "error": brief_error(error)}


def run(check, parts, command):
    """Runs the parts and writes a result for each; whether none has failed."""
    where = origin.origin(command)
    good = True
    for number, part in enumerate(parts):
        print(f"==> {part}", flush=True)
        check.begin_part(parts[number:])
        begin = time.monotonic()
        result = {**where, "part": part, "quick": check.quick, **result_of(check, part),
                  "seconds": round(time.monotonic() - begin, 1)}
        path = origin.save(check.out, part, result)
        word = f"skipped: {result['skipped_because']}" if "skipped_because" in result else \
            "passed" if result["passed"] else "FAILED"
        print(f"==> {part} {word}; {path.name}", flush=True)
        good &= result.get("passed", True)
    return good


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--build", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--command", required=True, help="as the results are to name it")
    parser.add_argument("--only", choices=list(PARTS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float)
    options = parser.parse_args(arguments)
    # Programs are started in sessions of their own: who ends this one by a signal ends them too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [options.only] if options.only else list(PARTS)
    with tempfile.TemporaryDirectory() as work:
        check = Check(options.root, options.build, options.out, pathlib.Path(work), options.quick,
                      options.seconds)
        sys.exit(not run(check, parts, options.command))


if __name__ == "__main__":
    main()
