"""The tests: the C++ programs of the build, and test/python."""

import importlib.util
import json
import sys
import xml.etree.ElementTree as ElementTree

import process

# Of the time, for one of the C++ programs: what is left then is for pytest.
CPP_SHARE = 0.25


def programs(build):
    return sorted(p for p in (build / "test").glob("*_test") if p.is_file())


def cpp_command(program, report, quick):
    # In a quick run only what has to do with a GPU: the rest passes everywhere or nowhere.
    chosen = ["--gtest_filter=*Cuda*"] if quick else []
    return [str(program), "--gtest_brief=1", f"--gtest_output=json:{report}", *chosen]


def python_command(report, root):
    return [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
            f"--junit-xml={report}", str(root / "test" / "python")]


def counts(run, skipped, failed, finished=True):
    return {"finished": finished, "run": run, "skipped": skipped, "failed": failed}


def of_googletest(text):
    """From the report of a program, or from "" where it has left none."""
    report = json.loads(text) if text else {}
    cases = [case for suite in report.get("testsuites", []) for case in suite["testsuite"]]
    return counts(sum(case["result"] == "COMPLETED" for case in cases),
                  sum(case["result"] == "SKIPPED" for case in cases),
                  [f"{case['classname']}.{case['name']}" for case in cases if "failures" in case],
                  bool(report))


def of_pytest(text):
    """From junit's XML, or from "" where pytest has left none."""
    if not text:
        return counts(0, 0, [], False)
    cases = list(ElementTree.fromstring(text).iter("testcase"))
    failed = [case for case in cases
              if case.find("failure") is not None or case.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    return counts(len(cases) - len(skipped), len(skipped),
                  [f"{case.get('classname')}.{case.get('name')}" for case in failed])


def good(status, result):
    return status == 0 and result["finished"] and not result["failed"]


def run(check):
    found, passed = {}, True
    has_pytest = importlib.util.find_spec("pytest")
    if not programs(check.build) and not has_pytest:
        return {"skipped_because": "there is neither a C++ test program nor pytest"}
    for program in programs(check.build):
        print(f"==> C++: {program.name}", flush=True)
        report = check.work / f"{program.name}.json"
        status = process.start(cpp_command(program, report, check.quick),
                               check.seconds(CPP_SHARE))
        found[program.name] = of_googletest(process.read(report))
        passed &= good(status, found[program.name])
    if has_pytest:
        print("==> Python: pytest -m gpu", flush=True)
        report = check.work / "pytest.xml"
        status = process.start(python_command(report, check.root), check.seconds(), cwd=check.root)
        found["pytest -m gpu"] = of_pytest(process.read(report))
        passed &= good(status, found["pytest -m gpu"])
    else:
        found["pytest -m gpu"] = {"skipped_because": "this Python has no pytest"}
    passed &= any(result.get("run") for result in found.values())
    return {"passed": passed, "tests": found}
