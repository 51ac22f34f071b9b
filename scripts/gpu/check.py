"""The parts of scripts/gpu_check.sh, which prepares the environment and explains the options."""

import argparse
import os
import pathlib
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field

import benchmark
import origin
import sanitize
import suites
import traffic

PARTS = {"test": suites.run, "sanitize": sanitize.run, "bench": benchmark.run,
         "profile": traffic.run}
# For all parts together; what is still running then is ended and counts as failed.
SECONDS = {False: 600, True: 180}


@dataclass
class Check:
    """What every part is told."""

    root: pathlib.Path
    build: pathlib.Path
    out: pathlib.Path
    work: pathlib.Path
    quick: bool = False
    environment: dict = field(default_factory=lambda: dict(os.environ))
    begin: float = field(default_factory=time.monotonic)

    def seconds(self, wanted):
        """What a program may take that wants so many, by `quick`."""
        left = self.begin + SECONDS[self.quick] - time.monotonic()
        return max(0, min(wanted[self.quick], left))


def run(check, parts, command):
    """Runs the parts and writes a result for each; whether none has failed."""
    where = origin.origin(command)
    good = True
    for part in parts:
        print(f"==> {part}", flush=True)
        result = PARTS[part](check)
        path = origin.save(check.out, part, {**where, "part": part, "quick": check.quick, **result})
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
    options = parser.parse_args(arguments)
    # Programs are started in sessions of their own: who ends this one by a signal ends them too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [options.only] if options.only else list(PARTS)
    with tempfile.TemporaryDirectory() as work:
        check = Check(options.root, options.build, options.out, pathlib.Path(work), options.quick)
        sys.exit(not run(check, parts, options.command))


if __name__ == "__main__":
    main()
