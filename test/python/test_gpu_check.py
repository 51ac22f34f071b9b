"""scripts/gpu_check.sh without a GPU: its commands, and what it reads from the tools' output."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import types

import pytest

from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "gpu"))

import benchmark  # noqa: E402
import check  # noqa: E402
import origin  # noqa: E402
import process  # noqa: E402
import sanitize  # noqa: E402
import suites  # noqa: E402
import traffic  # noqa: E402
import traffic_case  # noqa: E402

SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def shell(*arguments, **environment):
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": sys.executable, **environment},
                          timeout=120, check=False)


@pytest.mark.parametrize("arguments, text", [
    (["--only"], "--only takes test, bench, sanitize or profile"),
    (["--only", "all"], "--only takes test, bench, sanitize or profile"),
    (["--out"], "--out takes a folder"), (["--no-bench"], "unknown argument --no-bench")])
def test_bad_options_are_explained(arguments, text):
    done = shell(*arguments)
    assert done.returncode == 1 and text in done.stderr


def test_without_a_gpu_nothing_is_written(tmp_path):
    done = shell("--out", str(tmp_path / "results"), "--only", "sanitize", "--quick",
                 CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stderr.startswith("No GPU")
    assert not list(tmp_path.iterdir())


def test_the_time_is_shared():
    made = check.Check(*[None] * 4, quick=True)
    assert 170 < check.SECONDS[True] - 5 < check.SECONDS[False] < 600 - 45
    parts = list(check.PARTS)
    assert parts == ["test", "bench", "sanitize", "profile"] == list(check.SHARES)
    made.begin_part(parts)
    assert 70 < made.seconds() <= 72 and 17 < made.seconds(0.25) <= 18
    # What a part leaves is for those behind it, what it has taken beyond its share is not theirs.
    made.begin_part(parts[1:])
    assert 73 < made.seconds() <= 75
    made.begin -= 120
    made.begin_part(parts[1:])
    assert 24 < made.seconds() <= 25
    made.begin -= 20
    made.begin_part(parts[1:])
    assert 19 < made.seconds() <= 20, "a part has the least that it needs, if that is there"
    made.begin += 20
    made.begin_part(["profile"])
    assert 58 < made.seconds() <= 60
    made.begin -= 65
    made.begin_part(["profile"])
    assert made.seconds() == 0


def test_no_part_begins_that_cannot_end(made_up, monkeypatch, capsys):
    begun = []
    monkeypatch.setattr(check, "PARTS", {
        part: lambda _, part=part: begun.append(part) or {"passed": True} for part in check.PARTS})
    seconds = []

    def takes_fifteen_seconds(made):
        seconds.append(made.seconds())
        made.begin -= 15
        return {"passed": True}

    assert check.run(made_up, list(check.PARTS), "c") and len(begun) == 4
    begun.clear()
    made_up.begin -= check.SECONDS[False] - 30
    monkeypatch.setitem(check.PARTS, "test", takes_fifteen_seconds)
    assert check.run(made_up, list(check.PARTS), "c")
    assert 19 < seconds[0] <= 20 and not begun
    assert "bench skipped: no time is left for it" in capsys.readouterr().out
    record = json.loads((made_up.out / "gpu_bench_nvidia_chip_9.json").read_text())
    assert record["skipped_because"] == "no time is left for it"


def test_a_part_that_breaks_stops_no_other(made_up, monkeypatch, capsys):
    def breaks(_):
        raise ValueError(f"no table in {made_up.work}/ncu.csv\nand more")

    monkeypatch.setattr(check, "PARTS", {"profile": breaks, "test": lambda _: {"passed": True}})
    assert not check.run(made_up, ["profile", "test"], "c")
    record = json.loads((made_up.out / "gpu_profile_nvidia_chip_9.json").read_text())
    assert not record["passed"] and record["error"] == "ValueError: no table in ncu.csv"
    assert json.loads((made_up.out / "gpu_test_nvidia_chip_9.json").read_text())["passed"]
    assert "and more" in capsys.readouterr().err


@pytest.mark.parametrize("quick", [False, True])
def test_the_benchmark_is_given_what_it_understands(made_up, monkeypatch, quick):
    sys.path.insert(0, str(ROOT / "scripts" / "bench"))
    import bench

    made_up.quick = quick
    made_up.root = ROOT
    made_up.end = time.monotonic() + 45
    command = benchmark.command(made_up)
    assert command[1] == str(ROOT / "scripts" / "bench" / "bench.py")
    monkeypatch.setattr(bench.torch.cuda, "is_available", lambda: True)
    options = bench.parse(command[2:])
    assert options.device == "cuda" and options.out == made_up.out
    assert 20 <= options.deadline <= 25, "it ends of itself, with its tables"
    assert options.peers == (["aten"] if quick else ["aten", "native", "cudnn", "cudnn_persistent",
                                                     "torchbn_auto"])


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A check on a GPU that is not there."""
    device = types.SimpleNamespace(name="NVIDIA Chip 9", major=9, minor=0, total_memory=2**34,
                                   multi_processor_count=100)
    monkeypatch.setattr(origin.torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(origin, "driver", lambda: "1.2.3")
    folders = [tmp_path / name for name in ("root", "build", "out", "work")]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "build" / "test").mkdir()
    return check.Check(*folders)


def test_every_part_leaves_a_result_that_names_no_path(made_up, monkeypatch, tmp_path, capsys):
    results = {"test": {"passed": True}, "sanitize": {"skipped_because": "the tool is missing"},
               "bench": {"passed": True}, "profile": {"passed": True}}
    monkeypatch.setattr(check, "PARTS",
                        {part: lambda _, r=result: r for part, result in results.items()})
    assert check.run(made_up, list(results), "scripts/gpu_check.sh --out DIR")
    assert "sanitize skipped: the tool is missing" in capsys.readouterr().out
    for part, result in results.items():
        path = made_up.out / f"gpu_{part}_nvidia_chip_9.json"
        record = json.loads(path.read_text())
        assert {**record, **result} == record and str(tmp_path) not in path.read_text()
        assert record["device"]["driver"] == "1.2.3" and record["device"]["name"]
        assert set(record["versions"]) == {"torch", "cuda", "python"}
        assert record["command"] == "scripts/gpu_check.sh --out DIR"
    monkeypatch.setitem(check.PARTS, "bench", lambda _: {"passed": False})
    assert not check.run(made_up, ["test", "bench"], "c")
    assert not json.loads((made_up.out / "gpu_bench_nvidia_chip_9.json").read_text())["passed"]


GOOGLETEST = """Running main() from gtest_main.cc
[==========] Running 4 tests from 1 test suite.
[----------] Global test environment set-up.
[ RUN      ] Cuda/S.A/Float
[       OK ] Cuda/S.A/Float (3 ms)
[ RUN      ] Cuda/S.B/Half
support/cases.h:20: Skipped
no GPU
[  SKIPPED ] Cuda/S.B/Half (0 ms)
[ RUN      ] S.C
parity_test.cpp:7: Failure
Value of: equal
said without an end of the line[  FAILED  ] S.C, where GetParam() = (4, "split") (12 ms)
[ RUN      ] S.D
[       OK ] S.D (0 ms)
[----------] 4 tests from S (15 ms total)
[==========] 4 tests from 1 test suite ran. (15 ms total)
[  PASSED  ] 2 tests.
[  SKIPPED ] 1 test, listed below:
[  SKIPPED ] Cuda/S.B/Half
[  FAILED  ] 1 test, listed below:
[  FAILED  ] S.C, where GetParam() = (4, "split")

 1 FAILED TEST
"""
RAN = re.sub(r"\[  FAILED  \] S.*", "[       OK ] S.C (12 ms)", GOOGLETEST)
SKIPPED = RAN.replace("[       OK ]", "[  SKIPPED ]")
DEAD = GOOGLETEST.partition("[       OK ] S.D")[0]


def test_what_a_program_prints_is_counted():
    assert suites.of_googletest(GOOGLETEST) == {
        "finished": True, "run": 3, "skipped": 1, "failed": ["S.C"], "running": []}
    assert suites.of_googletest(DEAD) == {
        "finished": False, "run": 2, "skipped": 1, "failed": ["S.C"], "running": ["S.D"]}
    assert suites.of_googletest(SKIPPED)["run"] == 0 and not suites.of_googletest(RAN)["failed"]
    assert not suites.of_googletest("")["finished"] and not suites.of_pytest("")["finished"]
    glued = GOOGLETEST.replace("\n[ RUN      ] S.C", "no end of the line[ RUN      ] S.C")
    for text in (GOOGLETEST, glued):
        assert suites.printed(text)["S.C"].startswith("\nparity_test.cpp:7: Failure\nValue")


PYTEST = """import os
import pytest

@pytest.fixture
def broken(): raise ValueError

@pytest.fixture
def broken_at_the_end():
    yield
    raise ValueError

@pytest.mark.parametrize("shape", [(1, 2)], ids=str)
def test_good(shape): pass
def test_bad(): assert False
def test_without_fixture(broken): pass
def test_bad_at_the_end(broken_at_the_end): pass
def test_skipped(): pytest.skip("no GPU")
def test_last(): os.environ.get("DIES") and os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("dies", [False, True])
def test_what_pytest_runs_is_counted(tmp_path, dies):
    """Also if it dies in the middle."""
    tests = tmp_path / "test" / "python"
    tests.mkdir(parents=True)
    (tests / "test_cuda.py").write_text(PYTEST)
    (tests / "test_broken.py").write_text("import nothing_of_this_name")
    (tests / "pytest.ini").touch()
    lines, output = tmp_path / "lines", tmp_path / "output"
    with output.open("w") as stream:
        status = process.start(
            suites.python_command(lines, tmp_path, "not alone", processes=1, quick=False),
            60, cwd=tests, stdout=stream,
            env=suites.python_environment({**os.environ, "DIES": "yes" * dies}, 1))
    found = suites.of_pytest(lines.read_text())
    assert status == (-9 if dies else 1)
    assert (found["finished"], found["run"], found["skipped"]) == (not dies, 6 - dies, 1)
    assert found["failed"] == [
        "test_broken.py", *(f"test_cuda.py::test_{name}" for name in
                            ("bad", "without_fixture", "bad_at_the_end"))]
    assert found["running"] == ["test_cuda.py::test_last"] * dies
    shown = output.read_text()
    assert "No module named 'nothing_of_this_name'" in shown and "E   assert False" in shown


def test_pytest_is_started_as_the_time_asks(made_up, monkeypatch):
    def command(processes=1, quick=False):
        return suites.python_command("LINES", ROOT, "gpu", processes=processes, quick=quick)

    files = [pathlib.Path(a).name for a in command() if a.endswith(".py")]
    assert files[0] == "test_cuda.py" and len(files) == len(set(files)) > 20
    assert [a for a in command(quick=True) if a.endswith(".py")] == [
        str(ROOT / "test" / "python" / "test_cuda.py")]
    assert "-n" not in command() and command(6)[command(6).index("-n") + 1] == "6"
    monkeypatch.setattr(suites, "cpus", lambda: 16)
    assert suites.python_environment({}, 5)["OMP_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in suites.python_environment({}, 1)
    assert suites.python_environment({"PYTHONPATH": "x"}, 1)["PYTHONPATH"].endswith("gpu:x")

    started = []

    def start(command, seconds, **_):
        started.append((command[command.index("-m", 3) + 1], "-n" in command))
        pathlib.Path(command[command.index("--lines") + 1]).write_text("RUN a\nOK a\nEND \n")
        return 0

    monkeypatch.setattr(process, "start", start)
    monkeypatch.setattr(suites.importlib.util, "find_spec", lambda name: True)
    result = suites.run(made_up)
    assert result["passed"] and list(result["tests"]) == ["pytest -m gpu", "pytest -m alone"]
    assert started == [("gpu and not alone", True), ("alone", False)]
    made_up.quick = True
    assert suites.run(made_up)["passed"] and started[2:] == started[:1]


def program(path, text):
    path.write_text(f"#!{sys.executable}\nimport sys, time\n{text}")
    path.chmod(0o755)


def test_a_program_that_dies_or_hangs_is_a_failure(made_up, monkeypatch, capsys):
    # Parts of a program's tests must not be taken for all of them.
    monkeypatch.setattr(suites.importlib.util, "find_spec", lambda name: None)
    good = made_up.build / "test" / "good_test"
    assert "skipped_because" in suites.run(made_up)
    program(good, f"print({RAN!r})")
    result = suites.run(made_up)
    assert result["passed"] and result["tests"]["good_test"]["run"] == 3
    assert result["tests"]["pytest -m gpu"] == {"skipped_because": "this Python has no pytest"}
    program(made_up.build / "test" / "dies_test", f"print({DEAD!r})")
    result = suites.run(made_up)
    assert not result["passed"] and not result["tests"]["dies_test"]["finished"]
    assert result["tests"]["dies_test"]["running"] == ["S.D"]
    (made_up.build / "test" / "dies_test").unlink()
    assert suites.run(made_up)["passed"]
    program(good, f"print({RAN!r}); sys.exit(1)")
    assert not suites.run(made_up)["passed"]
    capsys.readouterr()
    program(good, f"print({GOOGLETEST!r})")
    assert not suites.run(made_up)["passed"]
    assert "S.C:\nparity_test.cpp:7: Failure\n" in capsys.readouterr().out
    # An error that the GPU does not get over is not shown a thousand times.
    program(good, f"[print({GOOGLETEST!r}.replace('S.C', 'S.C' + str(i))) for i in range(99)]")
    assert len(suites.run(made_up)["tests"]["good_test"]["failed"]) == 99
    assert capsys.readouterr().out.count("parity_test.cpp:7") == 10
    made_up.end = time.monotonic() + 12
    program(good, f"print({DEAD!r}, flush=True); time.sleep(60)")
    result = suites.run(made_up)["tests"]["good_test"]
    assert result["timed_out"] and result["running"] == ["S.D"] and result["run"] == 2


def is_alive(pid):
    """Whether it runs: who has ended may wait for a parent to ask."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize("ended_by", ["time", "error"])
def test_a_program_is_ended_with_all_that_it_has_started(tmp_path, ended_by):
    started = tmp_path / "pid"
    # As pytest does with its workers, and a sanitizer with the program that it watches.
    command = ["sh", "-c", f"sleep 60 & echo $! > '{started}'; wait"]
    begin = time.monotonic()
    if ended_by == "time":
        assert process.start(command, 1) is None
    else:
        def interrupt(*_):
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        signal.alarm(1)
        try:
            with pytest.raises(KeyboardInterrupt):
                process.start(command, 60)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begin < 30
    pid = int(started.read_text())
    for _ in range(100):
        if not is_alive(pid):
            break
        time.sleep(0.1)
    assert not is_alive(pid)
    assert process.start(["sh", "-c", "exit 7"], 60) == 7


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


NCU_HEAD = """==PROF== Connected to process 1234 (python3)
==PROF== Profiling "spin_kernel" - 0: 0%....50%....100% - 1 pass
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size",\
"Grid Size","Device","CC","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum",\
"lts__t_bytes.sum"
"","","","","","","","","","","","byte","byte","ns","byte"
"""


def ncu_row(number, name, *values):
    cells = [number, 1234, "python3", "127.0.0.1", name, 1, 7, "(256, 1, 1)", "(99, 1, 1)", 0, "9.0",
             *values]
    return ",".join(f'"{cell}"' for cell in cells) + "\n"


SPIN = "at::cuda::(anonymous namespace)::spin_kernel(long)"
REDUCE = "void torchbn::cuda::reduce_channels_first<torchbn::cuda::MomentReduction<float, (int)4>>(T1)"
TRANSFORM = "void torchbn::cuda::transform<torchbn::cuda::Normalize<float, (int)4>>(T1)"
NCU = (NCU_HEAD + ncu_row(0, SPIN, 0, 0, "1,000", 32)
       + ncu_row(1, REDUCE, "1,048,576", 64, "12,000", "2,000,000")
       + ncu_row(2, TRANSFORM, 1000, 24, "3.5e+03", 100)
       + ncu_row(3, SPIN, 0, 0, 1000, 32) + ncu_row(4, "other(int)", 7, 8, 9, "n/a")
       + "==PROF== Disconnected from process 1234\n")


def test_kernels_between_two_marks_are_those_of_a_call():
    rows = traffic.rows_of(NCU)
    assert [len(call) for call in traffic.calls_of(rows)] == [2, 1]
    labels = [{"contestant": "torchbn", "operation": "train", "tensor_bytes": 1000},
              {"contestant": "aten", "operation": "backward", "tensor_bytes": 10}]
    ours, other = traffic.table(labels, rows)
    assert ours["dram"] == [1049576, 88] and ours["l2"] == 2000100
    assert ours["passes"] == [2000, 1000] and ours["least"] == [1000, 1000]
    assert [k["name"] for k in ours["kernels"]] == [
        "reduce_channels_first<MomentReduction<float, 4>>", "transform<Normalize<float, 4>>"]
    assert ours["kernels"][0]["microseconds"] == 12
    assert other["dram"] == [7, 8] and other["l2"] is None
    assert other["passes"] is None and other["least"] == [20, 10]
    with pytest.raises(ValueError, match="2 calls of 1"):
        traffic.table(labels[:1], rows)


def test_a_table_of_another_form_is_refused():
    assert traffic.rows_of("==PROF== nothing\n") == []
    with pytest.raises(ValueError, match=r"no column lts__t_bytes\.sum"):
        traffic.rows_of(NCU.replace("lts__t_bytes.sum", "other"))
    with pytest.raises(ValueError, match="in 'Kbyte' and not in bytes"):
        traffic.rows_of(NCU.replace('"byte","byte","ns"', '"Kbyte","byte","ns"'))


def test_ncu_is_started_on_the_calls_alone(made_up):
    line = traffic.command("ncu", made_up, "LABELS", "LOG")
    assert line[line.index("--metrics") + 1].split(",") == traffic.METRICS
    for option, value in (("--page", "raw"), ("--print-units", "base"), ("--cache-control", "none"),
                          ("--clock-control", "none"), ("--profile-from-start", "off"),
                          ("--log-file", "LOG")):
        assert line[line.index(option) + 1] == value
    assert line[line.index(sys.executable):][1:] == [
        str(ROOT / "scripts" / "gpu" / "traffic_case.py"), "--labels", "LABELS"]


def fake_ncu(monkeypatch, log, printed, status=0):
    def start(command, seconds, stdout, stderr):
        pathlib.Path(command[command.index("--log-file") + 1]).write_text(log)
        pathlib.Path(command[command.index("--labels") + 1]).write_text(json.dumps([
            {"contestant": name, "operation": "train", "tensor_bytes": 9} for name in "ab"]))
        stdout.write(printed)
        return status

    monkeypatch.setattr(traffic.shutil, "which", lambda *_, **__: "ncu")
    monkeypatch.setattr(process, "start", start)


@pytest.mark.parametrize("logged", [False, True])
@pytest.mark.parametrize("output, reason", [
    ("==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU "
     "Performance Counters on the target device 0.", "ERR_NVGPUCTRPERM"),
    ("==ERROR== Failed to initialize the profiler: LibraryNotLoaded", "LibraryNotLoaded")])
def test_ncu_without_counters_is_skipped(made_up, monkeypatch, output, reason, logged):
    fake_ncu(monkeypatch, output * logged, output * (not logged), status=1)
    assert reason in traffic.run(made_up)["skipped_because"]


def test_what_the_calls_print_is_none_of_ncus_table(made_up, monkeypatch):
    fake_ncu(monkeypatch, NCU, '"a line","in quotes"\nwithout cudnn: the layout is not supported\n')
    found = traffic.run(made_up)
    assert found["passed"] and [call["contestant"] for call in found["calls"]] == ["a", "b"]


def test_a_table_that_is_not_understood_is_a_failure_with_a_reason(made_up, monkeypatch):
    fake_ncu(monkeypatch, NCU.replace("lts__t_bytes.sum", "other"), "")
    assert not check.run(made_up, ["profile"], "c")
    record = json.loads((made_up.out / "gpu_profile_nvidia_chip_9.json").read_text())
    assert record["error"] == "ValueError: ncu's table has no column lts__t_bytes.sum"


def test_the_prediction_is_that_of_the_kernels():
    def passes(*kinds):
        return traffic.passes([f"void kernel<ns::{kind}<float, (int)4>>(T1)" for kind in kinds], 10)

    # Read once for the sums, and once more together with writing the result; or held on chip.
    assert passes("MomentReduction", "Normalize") == [20, 10]
    assert passes("GradientReduction", "InputGradient") == [40, 10]
    assert passes("TrainPass") == traffic.least("train", 10)
    assert passes("BackwardPass") == traffic.least("backward", 10)
    assert passes("EvaluationReduction") == traffic.least("eval_backward", 10)
    split = {"train": ("MomentReduction", "Normalize"),
             "backward": ("GradientReduction", "InputGradient"), "eval": ("Normalize",),
             "eval_backward": ("GradientReduction", "Normalize")}
    for case in traffic_case.chosen(quick=False):
        assert sum(traffic.least(case.operation, case.tensor_bytes)) == case.minimal_bytes
        assert sum(passes(*split[case.operation])) * case.tensor_bytes / 10 >= case.minimal_bytes
    assert {c.operation for c in traffic_case.chosen(quick=True)} == set(traffic.LEAST)


def test_every_kind_of_kernel_has_a_prediction():
    sources = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").iterdir()
                      if path.suffix in (".cu", ".h"))
    kinds = re.findall(r"struct (\w+(?:Reduction|Pass)|Normalize|InputGradient)\b", sources)
    assert set(kinds) == set(traffic.KERNELS)


def test_labels_are_those_of_the_contestants_that_work(monkeypatch):
    for name in ("synchronize", "_sleep"):
        monkeypatch.setattr(traffic_case.torch.cuda, name, lambda *_: None)
    for name in ("start", "stop"):
        monkeypatch.setattr(traffic_case.torch.cuda.profiler, name, lambda: None)

    def fails():
        raise RuntimeError("no luck")

    case = traffic_case.cases.Case((4, 3, 2), "channels_first", "float32", "eval_backward")
    contestants = [traffic_case.peers.OURS, traffic_case.peers.Peer("other", "Other", fails)]
    labels = traffic_case.count(case, contestants, "cpu")
    assert labels == [{"contestant": "torchbn", "operation": "eval_backward", "dtype": "float32",
                       "layout": "channels_first", "shape": "4x3x2", "tensor_bytes": 96}]
