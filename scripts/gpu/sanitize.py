"""compute-sanitizer over the tests that start every kernel once.

Only the library's own kernels are watched, as torch's are not ours to judge, except by initcheck:
who watches no writes of torch's takes its results for uninitialised memory. There, what is found
outside of the library is counted apart.

A sanitizer's own instructions take registers. Where the blocks of a cooperative kernel then no
longer fit on the GPU together, it cannot be launched: a limit of the tool, which is named, and no
failure.
"""

import re
import shutil
import time

import process
import suites

# They make a program 10 to 100 times slower, the last one most of all: it gets what time the others
# leave. A quick run has time for one of them.
TOOLS = ["memcheck", "synccheck", "initcheck", "racecheck"]
QUICK_TOOLS = TOOLS[:1]
PROGRAM = "operators_test"
FILTER = {False: "EveryCudaKernel.*", True: "EveryCudaKernel.*BFloat16*"}
OURS = "torchbn"
ERROR_STATUS = 99


def command(sanitizer, tool, log, program, quick):
    watched = [] if tool == "initcheck" else ["--kernel-name", f"kernel_substring={OURS}"]
    if tool == "memcheck":
        # torch asks for what may fail, and goes on; where it may not, the test fails.
        watched += ["--report-api-errors", "no"]
    return [sanitizer, "--tool", tool, "--error-exitcode", str(ERROR_STATUS),
            "--print-limit", "20", "--log-file", str(log), *watched,
            str(program), "--gtest_color=no", f"--gtest_filter={FILTER[quick]}"]


# Without torch's cache every tensor is an allocation, beyond whose end a sanitizer sees.
ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}

SUMMARIES = {"racecheck": re.compile(r"RACECHECK SUMMARY: (\d+) hazards? displayed "
                                     r"\((\d+) errors?, (\d+) warnings?\)")}
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) errors?")
# Of cudaErrorCooperativeLaunchTooLarge.
TOO_LARGE = "too many blocks in cooperative launch"
# The lines of a report that say nothing by themselves.
BORING = re.compile(r"^(COMPUTE-SANITIZER|.*SUMMARY:|$|Error: No attachable process)")


def findings(text):
    """The reports in a log: the first line of each, and whether one of our kernels is in it."""
    found = []
    for line in text.splitlines():
        if not line.startswith("========="):
            continue
        said = line.removeprefix("=========")
        # Details are indented by more than the one space of a report's first line.
        if said.startswith("  "):
            if found and OURS in said:
                found[-1] = (found[-1][0], True)
        elif not BORING.match(said.strip()):
            found.append((said.strip(), OURS in said))
    return found


def judge(text, tool):
    """What a log says. finished: the tool has counted; only then does `errors` mean anything."""
    counted = SUMMARIES.get(tool, SUMMARY).findall(text)
    reports = findings(text)
    ours = [said for said, inside in reports if inside or tool != "initcheck"]
    if not counted:
        return {"finished": False, "errors": None, "reports": [said for said, _ in reports][:20]}
    if tool == "racecheck":
        errors, warnings = int(counted[-1][1]), int(counted[-1][2])
        return {"finished": True, "errors": errors, "warnings": warnings, "reports": ours[:20]}
    errors = int(counted[-1])
    elsewhere = {}
    if tool == "initcheck":
        elsewhere = {"elsewhere": len(reports) - len(ours)}
        # What lies beyond the print limit may be ours: only a log that shows all of it acquits.
        errors = len(ours) if len(reports) >= errors else errors
    return {"finished": True, "errors": errors, **elsewhere, "reports": ours[:20]}


def unusable(verdict, tests):
    """Why the tool has checked nothing, where the machine is to blame and not the kernels."""
    said = " ".join(verdict["reports"])
    if not tests["run"] and re.search(r"not supported|Unable to|Failed to initialize", said):
        return verdict["reports"][0]
    return None


def without_limited(tests, text):
    """The tests; apart from those that failed, those for which a kernel could not be launched and
    that had no other failure before."""
    said = suites.printed(text)
    limited = [test for test in tests["failed"]
               if TOO_LARGE in said[test] and said[test].count(": Failure") == 1]
    failed = [test for test in tests["failed"] if test not in limited]
    return {**tests, "failed": failed, **({"limited": limited} if limited else {})}


def run(check):
    sanitizer = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer")
    program = check.build / "test" / PROGRAM
    if not sanitizer:
        return {"skipped_because": "compute-sanitizer is missing"}
    if not program.exists():
        return {"skipped_because": f"{PROGRAM} was not built"}
    found, passed = {}, True
    tools = QUICK_TOOLS if check.quick else TOOLS
    for number, tool in enumerate(tools):
        print(f"==> compute-sanitizer: {tool}", flush=True)
        log = check.work / f"{tool}.log"
        begin = time.monotonic()
        status, tests, text = suites.run_googletest(
            command(sanitizer, tool, log, program, check.quick), check.work / f"{tool}.txt",
            check.seconds(1 / (len(tools) - number)), env={**check.environment, **ENVIRONMENT})
        tests = without_limited(tests, text)
        limited = tests.get("limited", [])
        if limited:
            print(f"==> {len(limited)} tests limited: cooperative kernels do not fit under {tool}")
        verdict = judge(process.read(log), tool)
        reason = unusable(verdict, tests)
        if reason:
            return {"skipped_because": f"compute-sanitizer does not work here: {reason}"}
        found[tool] = {**verdict, "tests": tests, "timed_out": status is None,
                       "seconds": round(time.monotonic() - begin, 1)}
        # initcheck's exit status counts what is not ours as well, the program's what is limited.
        right_exit = status in [0, *[ERROR_STATUS] * (tool == "initcheck"), *[1] * bool(limited)]
        passed &= (right_exit and verdict["finished"] and verdict["errors"] == 0
                   and tests["finished"] and tests["run"] > len(limited) and not tests["failed"])
    return {"passed": bool(passed), "tests": FILTER[check.quick], "tools": found}
