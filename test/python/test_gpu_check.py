"""scripts/gpu_check.sh without a GPU: its options, its parts' time, and what they leave."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from helpers import ROOT

import bench
import benchmark
import check

SCRIPT = ROOT / "scripts" / "gpu_check.sh"


def shell(*arguments, **environment):
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHON": sys.executable, **environment},
                          timeout=120, check=False)


@pytest.mark.parametrize("arguments, text", [
    (["--only"], "--only takes test, bench, sanitize or profile"),
    (["--only", "all"], "--only takes test, bench, sanitize or profile"),
    (["--out"], "--out takes a folder"), (["--no-bench"], "unknown argument --no-bench"),
    (["--seconds"], "--seconds takes a number"), (["--seconds", "-5"], "--seconds takes a number")])
def test_bad_options_are_explained(arguments, text):
    done = shell(*arguments)
    assert done.returncode == 1 and text in done.stderr


def test_without_a_gpu_nothing_is_written(tmp_path):
    done = shell("--out", str(tmp_path / "results"), "--only", "sanitize", "--quick",
                 CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2 and done.stderr.startswith("No GPU")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments, named", [
    ("--out out --only test", "--out DIR --only test"), ("--quick --out quick", "--quick --out DIR"),
    ("--only bench", "--only bench"), ("--seconds 90 --quick", "--seconds 90 --quick")])
def test_results_name_the_command_without_its_folder(tmp_path, arguments, named):
    (tmp_path / "scripts").mkdir()
    for name in ("gpu_check.sh", "common.sh"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "libtorchbn.so").touch()
    # A Python that has torch and a GPU, for all that the script asks it, and shows what it starts.
    python = tmp_path / "python"
    python.write_text("#!/usr/bin/env bash\n[[ $1 == -c ]] || printf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", str(tmp_path / "scripts" / "gpu_check.sh"), *arguments.split()], cwd=tmp_path,
        env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, timeout=60,
        check=True)
    given = done.stdout.splitlines()
    assert given[given.index("--command") + 1] == f"scripts/gpu_check.sh {named}"


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
    told = check.Check(*[None] * 4, quick=True, limit=900)
    told.begin_part(["profile"])
    assert 890 < told.seconds() <= 900


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
                                                     "cudnn_graph"])


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
