"""compute-sanitizer in scripts/gpu_check.sh: its commands, and how its logs are judged."""

import re

from gpu_record import DEAD, GOOGLETEST, RAN, SKIPPED

import process
import sanitize


def test_a_sanitizer_watches_our_kernels_and_all_of_them_for_uninitialised_memory():
    for tool in sanitize.TOOLS:
        line = sanitize.command("cs", tool, "LOG", "PROGRAM", quick=False)
        assert line[:3] == ["cs", "--tool", tool]
        assert ("kernel_substring=torchbn" in line) == (tool != "initcheck")
        assert ("--report-api-errors" in line) == (tool == "memcheck")
        # The program and its arguments come last.
        assert line[line.index("PROGRAM"):] == [
            "PROGRAM", "--gtest_color=no", "--gtest_filter=EveryCudaKernel.*"]


MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at void torchbn::cuda::transform<float>(T1)+0x70 in transform.cuh:18
=========     by thread (0,0,0) in block (0,0,0)
=========     Address 0x7f3c7ec000fc is out of bounds
=========     Saved host backtrace up to driver entry point at kernel launch time
=========         Host Frame: [0x101d9] in program
=========
========= Program hit cudaErrorLaunchFailure (error 719) on CUDA API call to cudaFree.
=========     Saved host backtrace up to driver entry point at error
=========
========= ERROR SUMMARY: 2 errors
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at torchbn::cuda::reduce()+0x460 in reduce.cuh:41
=========     and Read access at torchbn::cuda::reduce()+0x7a0 in reduce.cuh:51 [508 hazards]
=========
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""
NO_RACE = """========= COMPUTE-SANITIZER
========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)
"""
UNINITIALISED = """========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::reduce_kernel<512>(T3)+0x70
=========     by thread (31,0,0) in block (1,0,0)
=========     Address 0x7f3c7ec000fc
=========
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void torchbn::cuda::finish_moments<float>(long)+0x70 in train.cu:30
=========     by thread (31,0,0) in block (1,0,0)
=========
========= ERROR SUMMARY: 2 errors
"""


def test_a_sanitizers_log_is_judged_by_its_summary():
    found = sanitize.judge(MEMCHECK, "memcheck")
    assert (found["finished"], found["errors"]) == (True, 2)
    assert found["reports"] == [
        "Invalid __global__ write of size 4 bytes",
        "Program hit cudaErrorLaunchFailure (error 719) on CUDA API call to cudaFree."]
    assert sanitize.judge(CLEAN, "synccheck") == {"finished": True, "errors": 0, "reports": []}
    race = sanitize.judge(RACE, "racecheck")
    assert (race["errors"], race["warnings"], len(race["reports"])) == (1, 0, 1)
    assert sanitize.judge(NO_RACE, "racecheck")["errors"] == 0
    # A log that ends early has found nothing out, whatever it lacks.
    for tool in sanitize.TOOLS:
        assert not sanitize.judge("========= COMPUTE-SANITIZER\n", tool)["finished"]
    assert not sanitize.judge(CLEAN, "racecheck")["finished"]


def test_uninitialised_memory_counts_where_a_kernel_of_ours_reads_it():
    found = sanitize.judge(UNINITIALISED, "initcheck")
    assert (found["errors"], found["elsewhere"], len(found["reports"])) == (1, 1, 1)
    # More than are shown: they may be ours.
    assert sanitize.judge(UNINITIALISED.replace("2 errors", "200 errors"),
                          "initcheck")["errors"] == 200


def fake_sanitizer(made_up, monkeypatch, logs, *, status=0, report=GOOGLETEST):
    (made_up.build / "test" / sanitize.PROGRAM).touch()
    monkeypatch.setattr(sanitize.shutil, "which", lambda *_, **__: "compute-sanitizer")

    def start(command, seconds, stdout, env):
        assert env["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1" and "PATH" in env
        tool = command[command.index("--tool") + 1]
        log = command[command.index("--log-file") + 1]
        with open(log, "w") as stream:
            stream.write(logs.get(tool, CLEAN))
        stdout.write(report)
        return status

    monkeypatch.setattr(process, "start", start)
    return sanitize.run(made_up)


def test_a_sanitizer_run_passes_only_when_tests_ran_and_nothing_was_found(made_up, monkeypatch):
    logs = {"racecheck": NO_RACE}
    good = fake_sanitizer(made_up, monkeypatch, logs, report=RAN)
    assert good["passed"] and set(good["tools"]) == set(sanitize.TOOLS)
    made_up.quick = True
    assert set(fake_sanitizer(made_up, monkeypatch, logs, report=RAN)["tools"]) == {"memcheck"}
    made_up.quick = False
    for wrong in (dict(report=SKIPPED), dict(report=GOOGLETEST), dict(report=""), dict(report=DEAD),
                  dict(status=1), dict(status=None)):
        assert not fake_sanitizer(made_up, monkeypatch, logs, **{"report": RAN, **wrong})["passed"]
    for tool, log in (("racecheck", RACE), ("memcheck", MEMCHECK), ("initcheck", UNINITIALISED)):
        bad = fake_sanitizer(made_up, monkeypatch, {**logs, tool: log}, report=RAN)
        assert not bad["passed"] and bad["tools"][tool]["errors"]


def test_kernels_that_do_not_fit_under_a_sanitizer_are_a_limit(made_up, monkeypatch, capsys):
    logs = {"racecheck": NO_RACE}
    limited = GOOGLETEST.replace(
        "Value of: equal\n", 'C++ exception with description "CUDA error: too many blocks in '
        'cooperative launch" thrown in the test body.\n')
    good = fake_sanitizer(made_up, monkeypatch, logs, status=1, report=limited)
    tests = good["tools"]["memcheck"]["tests"]
    assert good["passed"] and (tests["limited"], tests["failed"]) == (["S.C"], [])
    assert "1 tests limited: cooperative kernels do not fit" in capsys.readouterr().out
    # It excuses neither other tests, nor errors, nor a run of which nothing is left.
    for other in (limited.replace("[       OK ] S.D", "[  FAILED  ] S.D"),
                  limited.replace("C++ exc", "wrong\nunknown file: Failure\nC++ exc")):
        assert not fake_sanitizer(made_up, monkeypatch, logs, status=1, report=other)["passed"]
    logs["memcheck"] = MEMCHECK
    assert not fake_sanitizer(made_up, monkeypatch, logs, status=1, report=limited)["passed"]
    del logs["memcheck"]
    alone = re.sub(r"\[       OK \]", "[  SKIPPED ]", limited)
    assert not fake_sanitizer(made_up, monkeypatch, logs, status=1, report=alone)["passed"]


def test_a_sanitizer_that_cannot_work_is_skipped(made_up, monkeypatch):
    log = "========= COMPUTE-SANITIZER\n========= Error: Device not supported.\n"
    result = fake_sanitizer(made_up, monkeypatch, dict.fromkeys(sanitize.TOOLS, log), report="")
    assert result == {"skipped_because":
                      "compute-sanitizer does not work here: Error: Device not supported."}
    monkeypatch.setattr(sanitize.shutil, "which", lambda *_, **__: None)
    assert "missing" in sanitize.run(made_up)["skipped_because"]
