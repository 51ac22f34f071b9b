"""The tests: the C++ programs of the build, and test/python.

Results are read from what the programs say as they go, a line when a test begins and one when it
has ended. Of one that hangs or dies it is known what has passed, and what was running."""

import importlib.util
import os
import pathlib
import re
import sys
import time

import process
from pytest_lines import MOST_SHOWN

# Of the time that is left for all tests: of each C++ program, and of the larger run of pytest.
CPP_SHARE, PYTEST_SHARE = 0.25, 0.75
# pytest's runs, by the marks of the tests. The first one starts several processes if it can.
MARKS = {"pytest -m gpu": "gpu and not alone", "pytest -m alone": "alone"}
MOST_PROCESSES = 12
# A test that takes longer shows in the output where all of its threads are.
HANGING_SECONDS = 30


def programs(build):
    """All but those on simulated GPUs."""
    return sorted(p for p in (build / "test").glob("*_test")
                  if p.is_file() and not p.name.startswith("simulated"))


def cpp_command(program, quick):
    # In a quick run only what has to do with a GPU: the rest passes everywhere or nowhere.
    return [str(program), "--gtest_color=no", *(["--gtest_filter=*Cuda*"] if quick else [])]


def python_command(lines, root, marks, *, processes, quick):
    folder = root / "test" / "python"
    # First what is about GPUs alone. Of that a quick run takes one type, in training.
    files = sorted(folder.glob("test_*.py"), key=lambda path: (path.name != "test_cuda.py", path))
    chosen = ["-k", "bfloat16 and not evaluation or not float"] if quick else []
    return [sys.executable, "-m", "pytest", "-q", "--tb=short", "--no-summary",
            "-p", "no:cacheprovider", "--continue-on-collection-errors",
            "-o", f"faulthandler_timeout={HANGING_SECONDS}",
            "-p", "pytest_lines", "--lines", str(lines), "-m", marks, *chosen,
            *(["-n", str(processes)] if processes > 1 else []),
            *map(str, files[:1] if quick else files)]


def python_environment(environment, processes):
    """The plugin is found beside this file, and the processes share the processors."""
    here = str(pathlib.Path(__file__).resolve().parent)
    path = os.pathsep.join([here, *filter(None, [environment.get("PYTHONPATH")])])
    threads = {"OMP_NUM_THREADS": str(max(1, cpus() // processes))} if processes > 1 else {}
    return {**environment, "PYTHONPATH": path, **threads}


def cpus():
    return len(os.sched_getaffinity(0))


def counts(words, finished):
    """words: of each test the last one counts."""
    def tests(word):
        return [test for test, last in words.items() if last == word]

    failed = tests("FAILED")
    return {"finished": finished, "run": len(tests("OK")) + len(failed),
            "skipped": len(tests("SKIPPED")), "failed": failed, "running": tests("RUN")}


def of_googletest(text):
    """From what a program has printed. A name is followed by a parameter's value or the time."""
    said = re.findall(r"\[ +(RUN|OK|FAILED|SKIPPED) +\] (\S+?)(?:,.*| \(.*)?$", text, re.MULTILINE)
    finished = re.search(r"^\[=+\] \d+ tests? from .* ran\.", text, re.MULTILINE)
    return counts({test: word for word, test in said}, finished is not None)


def of_pytest(text):
    """From the lines of pytest_lines.py."""
    said = [line.partition(" ")[::2] for line in text.splitlines()]
    words = {test: word for word, test in said}
    finished = words.pop("", None) == "END"
    return counts(words, finished)


def printed(text):
    """{test: what it has printed} by a program of GoogleTest's."""
    _, *pieces = re.split(r"\[ RUN +\] (\S+)$", text, flags=re.MULTILINE)
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def run_googletest(command, log, seconds, **options):
    """The exit status, what is known of the tests, and all that was printed; shows what the first
    of those that have failed, or were running at the end, have printed."""
    with log.open("w") as stream:
        status = process.start(command, seconds, stdout=stream, **options)
    text = process.read(log)
    result = of_googletest(text)
    said = printed(text)
    for test in [*result["failed"], *result["running"]][:MOST_SHOWN]:
        print(f"{test}:{said[test][:2000].rstrip()}", flush=True)
    return status, result, text


def judged(result, status):
    """The result, and whether that is a pass: then the program has ended of itself, and well."""
    return ({**result, "timed_out": status is None},
            status == 0 and result["finished"] and not result["failed"])


def run_program(check, program):
    print(f"==> C++: {program.name}", flush=True)
    status, result, _ = run_googletest(
        cpp_command(program, check.quick), check.work / f"{program.name}.txt",
        check.seconds(CPP_SHARE))
    return judged(result, status)


def run_pytest(check, name, *, alone):
    print(f"==> Python: {name}", flush=True)
    lines = check.work / f"{name}.txt"
    several = importlib.util.find_spec("xdist") and not alone
    processes = min(MOST_PROCESSES, cpus()) if several else 1
    status = process.start(
        python_command(lines, check.root, MARKS[name], processes=processes, quick=check.quick),
        check.seconds(1 if alone else PYTEST_SHARE), cwd=check.root,
        env=python_environment(check.environment, processes))
    return judged(of_pytest(process.read(lines)), status)


def run(check):
    found, passed = {}, []
    has_pytest = importlib.util.find_spec("pytest")
    if not programs(check.build) and not has_pytest:
        return {"skipped_because": "there is neither a C++ test program nor pytest"}

    def note(name, tests, *arguments, **options):
        begin = time.monotonic()
        result, good = tests(check, *arguments, **options)
        found[name] = {**result, "seconds": round(time.monotonic() - begin, 1)}
        passed.append(good)

    for program in programs(check.build):
        note(program.name, run_program, program)
    first, alone = MARKS
    if not has_pytest:
        found[first] = {"skipped_because": "this Python has no pytest"}
    else:
        note(first, run_pytest, first, alone=False)
        if not check.quick:
            note(alone, run_pytest, alone, alone=True)
    return {"passed": all(passed) and any(result.get("run") for result in found.values()),
            "tests": found}
