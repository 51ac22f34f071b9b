"""The benchmark: which cases there are, its options and runs, and what it leaves."""

import shutil
import subprocess

import pytest

from bench_record import record, result, run
from helpers import ROOT

import bench
import cases
import contest
import machine
import measure
import peers
import problem
import store


def test_shapes_are_read_as_they_are_written():
    assert cases.parse_shape("32x64x7x7") == (32, 64, 7, 7)
    assert cases.shape_name((32, 64)) == "32x64"
    for wrong in ("32", "", "3x", "0x4", "axb"):
        with pytest.raises(ValueError):
            cases.parse_shape(wrong)


@pytest.mark.parametrize("operation, tensors", [("train", 2), ("backward", 3), ("train_step", 5),
                                                ("eval", 2), ("eval_backward", 3)])
def test_bytes_are_the_least_that_can_move(operation, tensors):
    case = cases.Case((2, 3, 4), "channels_first", "bfloat16", operation)
    assert case.minimal_bytes == tensors * 48
    floor = problem.Problem(case, "cpu").floor()
    assert 2 * len(floor) + (operation in ("backward", "train_step", "eval_backward")) == tensors


def test_a_selection_is_the_product_without_repetitions():
    for device in ("cpu", "cuda"):
        chosen = cases.select(device)
        assert len(chosen) == len(set(chosen))
        assert {c.shape for c in chosen} == set(cases.shapes_of(device))
        assert len(cases.shapes_of(device)) == len(set(cases.shapes_of(device)))
        assert {c.operation for c in chosen} == set(cases.operations_of(device))
    only = cases.select("cpu", shapes=[(4, 1, 5), (4, 2)], dtypes=["float32"])
    assert {c.layout for c in only} == {"channels_first"}
    assert len(only) == 2 * len(cases.operations_of("cpu"))
    assert not cases.select("cpu", shapes=[(4, 2)], layouts=["channels_last"])
    assert {c.dtype for c in cases.select("cpu", quick=True)} == {"float32"}


def test_the_awkward_shapes_are_among_the_shapes():
    shapes = cases.shapes_of("cpu")
    assert {1, 3, 6, 7, 21} <= {shape[1] for shape in shapes}
    assert {(7, 7), (40, 40), (129, 129)} <= {shape[2:] for shape in shapes}
    assert {len(shape) for shape in shapes} == {2, 3, 4, 5}
    assert cases.set_of((32, 64), "cpu") == "N x C"
    assert cases.set_of((3, 3), "cpu") == "others"


def test_a_quick_run_is_announced_as_less_than_a_minute(capsys):
    options = bench.parse(["--quick"])
    assert options.peers == ["aten"]
    bench.announce(options, runs=1)
    assert capsys.readouterr().err.endswith("runs: 1, about 1 min\n")
    full = bench.parse([])
    assert full.peers == peers.names_of("cpu") == ["aten", "inductor"]
    measured, compiling = bench.estimate(full, peers.PEERS)
    assert 60 < measured < 3600 and 60 < compiling < 3600


@pytest.fixture
def three_cases(monkeypatch, tmp_path):
    """Arguments of a run in this process, and the file with its results."""
    for name in machine.variables("default", pin=False):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "r.json"
    return path, ["--shapes", "4x3", "4x5", "4x6", "--dtype", "float32", "--operation", "train",
                  "--peers", "aten", "--seconds", "0.001", "--rounds", "1", "--json", str(path)]


def test_a_case_that_fails_stops_no_other(three_cases, monkeypatch, capsys):
    path, arguments = three_cases
    measured = contest.run_case
    seen = []

    def run_case(case, *rest):
        # What was measured before is safe already, whatever becomes of this one.
        seen.append([r["shape"] for r in store.load(path)["runs"][0]["results"]] if seen else [])
        if case.shape == (4, 5):
            raise contest.CaseError("torchbn is wrong in /some/folder/file")
        return measured(case, *rest)

    monkeypatch.setattr(contest, "run_case", run_case)
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 1 and seen == [[], ["4x3"], ["4x3"]]
    (only,) = store.load(path)["runs"]
    assert [r["shape"] for r in only["results"]] == ["4x3", "4x6"] and only["left_out"] == []
    name = "4x5 channels_first float32 train"
    assert only["failed"] == [{"case": name, "why": "CaseError: torchbn is wrong in file"}]
    assert f"FAILED: {name}: CaseError: torchbn is wrong in file" in capsys.readouterr().out
    assert [p.name for p in path.parent.iterdir()] == ["r.json"]


def test_no_case_begins_after_the_deadline(three_cases, monkeypatch, capsys):
    path, arguments = three_cases
    measured = contest.run_case

    def run_case(case, options, chosen):
        options.end -= 1000
        return measured(case, options, chosen)

    monkeypatch.setattr(contest, "run_case", run_case)
    bench.main([*arguments, "--deadline", "1500"])
    (only,) = store.load(path)["runs"]
    assert [r["shape"] for r in only["results"]] == ["4x3", "4x5"]
    assert only["left_out"] == ["4x6 channels_first float32 train"]
    assert "Left out: 1 cases, from 4x6 channels_first" in capsys.readouterr().out
    bench.main([*arguments, "--deadline", "-1"])
    (only,) = store.load(path)["runs"]
    assert not only["results"] and len(only["left_out"]) == 3


def test_what_a_deadline_leaves_out_is_of_the_last_shapes():
    some = ["--shapes", "4x5", "4x3x2", "--dtype", "float32", "bfloat16", "--operation", "train", "eval"]
    assert [case.shape for case in bench.parse(some).cases[:2]] == [(4, 5), (4, 3, 2)]
    limited = bench.parse([*some, "--deadline", "9"]).cases
    assert [case.shape for case in limited] == [(4, 5)] * 4 + [(4, 3, 2)] * 8
    assert {case.name for case in limited} == {case.name for case in bench.parse(some).cases}


def test_a_run_leaves_a_file_without_host_or_path(tmp_path, capsys, monkeypatch):
    def no_rounds(contestants, clock, **_):
        for call in contestants.values():
            call()
        return {name: [1.0, 2.0] for name in contestants}

    monkeypatch.setattr(measure, "run_rounds", no_rounds)
    for name in machine.variables("default", pin=False):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "folder.json"
    bench.main(["--shapes", "4x3x2", "--dtype", "float32", "bfloat16", "--peers", "aten",
                "--json", str(path), "--out", str(tmp_path)])
    written = store.load(path)
    results = written["runs"][0]["results"]
    assert len(results) == 2 * 2 * len(cases.operations_of("cpu"))
    assert written["command"].endswith(f"--json folder.json --out {tmp_path.name}")
    assert str(tmp_path) not in path.read_text()
    assert set(results[0]) == {*store.CASE, *store.COUNTS, *store.PER_CONTESTANT}
    assert set(results[0]["faults"]) == {"floor", "aten", "torchbn"}
    named = [p for p in tmp_path.iterdir() if p.name.startswith("bench_")]
    assert len(named) == 1 and store.load(named[0]) == written
    assert "4x3x2" in capsys.readouterr().out


def test_every_combination_is_a_run_of_its_own(tmp_path, monkeypatch):
    started = []

    def start(command, env, check):
        # Given again after the user's own: the last one counts.
        part = bench.parse(command[2:])
        malloc, (threads,) = part.malloc, part.threads
        started.append((malloc, threads, env))
        measured = run([result()], malloc, threads)
        store.save(part.json,
                   {**machine.describe("cpu"), "pinned": True, "load_average": [0, 0],
                    "command": "part", "runs": [measured]})
        return bench.subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(bench.subprocess, "run", start)
    path = tmp_path / "r.json"
    bench.main(["--malloc", "both", "--threads", "1", "2", "--pin", "--peers", "aten",
                "--json", str(path)])
    assert [entry[:2] for entry in started] == [("default", 1), ("default", 2), ("warm", 1),
                                                ("warm", 2)]
    for malloc, _, env in started:
        assert ("MALLOC_TRIM_THRESHOLD_" in env) == (malloc == "warm")
        assert env["OMP_PROC_BIND"] == "close"
    merged = store.load(path)
    assert [(r["malloc"], r["threads"]) for r in merged["runs"]] == [e[:2] for e in started]
    assert merged["command"] == "scripts/bench.sh --malloc both --threads 1 2 --pin --peers aten " \
        "--json r.json"


@pytest.mark.parametrize("arguments, text", [
    (["--shapes", "4"], "such as 32x64x7x7, not '4'"),
    (["--device", "tpu"], "invalid choice"),
    (["--device", "cuda", "--malloc", "warm"], "--"),
    (["--threads", "0"], "a number of 1 or more, not '0'"),
    (["--rounds", "-1"], "a number of 1 or more, not '-1'"),
    (["--seconds", "nan"], "seconds above 0, not 'nan'"),
    (["--json", "/dev/null/r.json"], "/dev/null: "),
    (["--out", "/dev/null/results"], "/dev/null/results: Not a directory"),
    (["--json", "/dev"], "--json /dev is a folder"),
    (["--peers", "apex"], "invalid choice: 'apex'"),
    (["--shapes", "4x2", "--layout", "channels_last"], "no case is left")])
def test_bad_options_are_explained(arguments, text, capsys):
    with pytest.raises(SystemExit):
        bench.parse(arguments)
    assert text in capsys.readouterr().err


def test_a_file_that_is_no_library_is_refused(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("no library")
    monkeypatch.setenv("TORCHBN_LIBRARY", str(tmp_path / "notes.txt"))
    with pytest.raises(SystemExit, match="can't load the library: .*notes.txt"):
        bench.load_library()


def test_what_a_part_has_measured_outlasts_it(three_cases, monkeypatch):
    path, arguments = three_cases
    statuses = iter([1, -11, 0])

    def start(command, env, check):
        part = bench.parse(command[2:])
        assert 90 < part.deadline < 100
        status = next(statuses)
        one = {**run([result()], part.malloc, *part.threads), "left_out": [],
               "failed": [{"case": "c", "why": "w"}] * (status == 1)}
        store.save(part.json, record(one))
        return bench.subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(bench.subprocess, "run", start)
    with pytest.raises(SystemExit) as ended:
        bench.main([*arguments, "--threads", "1", "2", "3", "--deadline", "99"])
    assert ended.value.code == 1
    assert [r["failed"] for r in store.load(path)["runs"]] == [
        [{"case": "c", "why": "w"}],
        [{"case": "what was left out", "why": "exit status -11"}], []]


def test_a_part_that_fails_ends_the_run(monkeypatch):
    monkeypatch.setattr(bench.subprocess, "run",
                        lambda command, **_: bench.subprocess.CompletedProcess(command, 3))
    with pytest.raises(SystemExit) as ended:
        bench.main(["--quick", "--malloc", "both"])
    assert ended.value.code == 3


@pytest.mark.parametrize("name", ["bench", "accuracy"])
def test_who_asks_for_help_gets_nothing_built(name, tmp_path):
    scripts, python = tmp_path / "scripts", tmp_path / ".venv" / "bin" / "python"
    scripts.mkdir()
    python.parent.mkdir(parents=True)
    for file in ("common.sh", f"{name}.sh"):
        shutil.copy(ROOT / "scripts" / file, scripts)
    (scripts / "build.sh").write_text("#!/bin/sh\necho built\n")
    (scripts / "build.sh").chmod(0o755)

    def output(*arguments):
        return subprocess.run(["bash", str(scripts / f"{name}.sh"), *arguments], check=True,
                              capture_output=True, text=True, timeout=60).stdout

    head = output("--help")
    assert f"{name}.sh [ARGUMENT...]" in head and "built" not in head
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    program = scripts / "bench" / f"{name}.py"
    assert output("--markdown", "-h") == f"{head}{program} --help\n"
    assert output("--markdown", "a b") == f"built\n{program} --markdown a b\n"
