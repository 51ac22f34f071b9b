"""The tests in scripts/gpu_check.sh: how they are started and ended, and what is read from them."""

import os
import pathlib
import signal
import sys
import time

import pytest

from gpu_record import DEAD, GOOGLETEST, RAN, SKIPPED
from helpers import ROOT

import process
import suites


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


def test_programs_on_simulated_gpus_are_left_out(tmp_path):
    (tmp_path / "test").mkdir()
    for name in ("operators_test", "simulated_gpu_test", "other"):
        (tmp_path / "test" / name).touch()
    assert [program.name for program in suites.programs(tmp_path)] == ["operators_test"]


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
