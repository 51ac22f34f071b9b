"""The benchmark's cases, contestants and arithmetic. Nothing here measures time."""

import math
import os
import random as python_random
import re
import shutil
import subprocess

import pytest
import torch

from bench_record import record, result, run
from helpers import ROOT

import bench
import cases
import contest
import machine
import measure
import peers
import plot
import problem
import report
import store
import summary


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


def test_everyone_is_first_equally_often():
    orders = [measure.order_of(i, ["a", "b", "c"]) for i in range(6)]
    assert [o[0] for o in orders] == ["a", "b", "c"] * 2
    assert all(sorted(o) == ["a", "b", "c"] for o in orders)


def test_samples_are_long_against_the_clock():
    assert measure.repeats_for(1.0) == 1
    assert measure.repeats_for(1e-4, least=2e-3) == 20
    assert measure.repeats_for(0.0) == 1000


def test_rounds_stop_at_the_time_but_not_before_the_least():
    class Clock:
        def time(self, call, repeats):
            call()
            return 1.0

    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure.run_rounds(contestants, Clock(), seconds=0, least_rounds=4)
    assert {name: len(samples) for name, samples in times.items()} == {"a": 4, "b": 4, "c": 4}
    assert calls[6:] == list("abcbcacababc")  # after two calls each to warm up and estimate


@pytest.mark.parametrize("count, ranks", [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (9, (2, 8)),
                                          (15, (4, 12)), (20, (6, 15)), (50, (18, 33))])
def test_the_interval_has_the_textbook_ranks(count, ranks):
    values = list(range(1, count + 1))
    python_random.Random(0).shuffle(values)
    assert summary.median_interval(values) == ranks


def test_the_interval_holds_the_median_as_often_as_it_says():
    generator = python_random.Random(1)
    hits = 0
    for _ in range(2000):
        low, high = summary.median_interval([generator.gauss(0, 1) for _ in range(15)])
        hits += low <= 0 <= high
    # 96.5% for ranks 4 and 12 of 15; three standard deviations of 2000 draws are 1.2%.
    assert abs(hits / 2000 - 0.965) < 0.013


def test_rounds_in_which_the_floor_jumps_are_left_out():
    assert summary.steady_rounds([1.0, 1.1, 5.0, 0.9, 1.0]) == [0, 1, 3, 4]
    wild = [1.0, 2.0, 4.0, 8.0]
    assert summary.steady_rounds(wild) == [0, 1, 2, 3]


def test_ratios_are_of_the_same_round():
    # Both slow down together: the ratio of each round stays 2, that of the medians too, and the
    # interval shows that there is no doubt.
    times = {"floor": [1.0] * 4, "aten": [2.0, 4, 6, 8], "torchbn": [1.0, 2, 3, 4]}
    numbers = summary.summarize(times)
    assert numbers["ratios"]["aten"] == [2, 2, 2]
    assert numbers["ratios"]["floor"] == [summary.rounded((1 / 2 + 1 / 3) / 2, 3), 0.25, 1]
    assert numbers["microseconds"]["torchbn"] == [2.5e6, 1.25e6, 3.75e6]
    assert (numbers["rounds"], numbers["discarded"]) == (4, 0)


def test_the_headline_is_against_the_fastest_peer():
    assert summary.best_peer(result(2.0)) == "aten"
    both = result(2.0, inductor=1.5, of_floor=0.9)
    assert summary.best_peer(both) == "inductor"
    assert summary.headline(both) == [1.5, 1.5, 1.5]
    both["ratios"]["torchbn_auto"] = [0.5, 0.5, 0.5]
    both["microseconds"]["torchbn_auto"] = [1, 1, 1]
    assert summary.best_peer(both) == "inductor", "our own other kernels are no peer"


@pytest.mark.parametrize("before", [None, "split"])
def test_our_other_kernels_are_asked_for_during_a_call_alone(before, monkeypatch):
    variable = "TORCHBN_CUDA_KERNEL"
    monkeypatch.delenv(variable, raising=False)
    if before:
        monkeypatch.setenv(variable, before)
    (other,) = (peer for peer in peers.PEERS if peer.name == "torchbn_auto")
    assert other.wrap(lambda: os.environ[variable])() == "auto"
    assert os.environ.get(variable) == before


def test_numbers_keep_the_digits_that_mean_something():
    assert [summary.rounded(v) for v in (1234.56, 12.34567, 0.0123456, 0)] == [
        1235, 12.35, 0.01235, 0]


def test_the_last_level_cache_is_the_one_of_the_highest_level(tmp_path):
    for index, (level, kind, size) in enumerate([(1, "Data", "32K"), (1, "Instruction", "64K"),
                                                 (3, "Unified", "32768K"), (2, "Unified", "1M")]):
        folder = tmp_path / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{value}\n")
    assert machine.cache_bytes("cpu", tmp_path) == 2**25
    assert machine.cache_bytes("cpu", tmp_path / "nothing") is None


def test_time_that_the_hypervisor_took_is_a_share_of_all():
    assert machine.stolen_percent((100, 1), (300, 5)) == 2
    assert machine.stolen_percent((0, 0), (0, 0)) is None


def test_the_command_names_no_folder():
    assert machine.command_of(["--quick", "--json", "/home/me/x.json", "--out=/tmp/results",
                               "--plot", "/home/me/p"]) == (
        "scripts/bench.sh --quick --json x.json --out=results --plot p")


@pytest.mark.parametrize("operation", cases.OPERATIONS)
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_a_wrong_result_is_noticed(operation, layout):
    case = cases.Case((8, 5, 6, 6), layout, "float32", operation)
    asked = problem.Problem(case, "cpu")
    if asked.dy is not None:
        asked.dy[0, 0, 0, 0] = 0
    for peer in (peers.PEERS[0], peers.OURS):
        call = asked.contestant(peer.prepare())
        right = call()
        assert len(right) == len(problem.RETURNED[operation])
        assert max(asked.errors(right).values()) <= 1
        assert max(asked.errors(call()).values()) <= 1  # a kept graph can be asked again
    if problem.RETURNED[operation][0] == "grad_input":
        assert asked.errors((right[0] + 1e-5, *right[1:]))["grad_input"] > 1
    else:
        assert asked.errors((right[0] * (1 + 1e-5), *right[1:]))["output"] > 1


def test_a_wrong_torchbn_fails_a_case_and_a_failing_peer_does_not(monkeypatch):
    case = cases.Case((8, 5, 6, 6), "channels_first", "float32", "eval")
    asked = problem.Problem(case, "cpu")

    def fails():
        raise RuntimeError("no luck\nand more")

    def wrong(name):
        return peers.Peer(name, name, lambda: lambda *tensors: right(*tensors) + 1)

    calls, errors, notes = contest.contestants_of(
        case, asked, [peers.PEERS[0], peers.Peer("other", "Other", fails)])
    assert list(calls) == ["floor", "aten", "torchbn"] and set(errors) == {"aten", "torchbn"}
    assert notes == [f"{case.name}: without other: RuntimeError: no luck"]
    with pytest.raises(contest.CaseError, match="no peer is left"):
        contest.contestants_of(case, asked, [peers.Peer("other", "Other", fails)])
    right = peers.aten()
    calls, errors, _ = contest.contestants_of(case, asked, [peers.PEERS[0], wrong("other")])
    assert "other" in calls and errors["other"] > 1
    # Our other kernels have to be right as well.
    with pytest.raises(contest.CaseError, match="torchbn_auto is wrong"):
        contest.contestants_of(case, asked, [peers.PEERS[0], wrong("torchbn_auto")])
    with pytest.raises(RuntimeError, match="no luck"):
        contest.contestants_of(case, asked, [peers.Peer("torchbn_auto", "auto", fails)])
    monkeypatch.setattr(peers, "OURS", wrong("torchbn"))
    with pytest.raises(contest.CaseError, match="torchbn is wrong"):
        contest.contestants_of(case, asked, [peers.PEERS[0]])


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


def test_a_peer_that_cannot_take_part_is_named(monkeypatch):
    absent = peers.Peer("inductor", "Inductor", None, lambda device: f"no compiler for {device}")
    monkeypatch.setattr(peers, "PEERS", [peers.PEERS[0], absent])
    chosen, notes = peers.choose(["aten", "inductor"], "cpu")
    assert [peer.name for peer in chosen] == ["aten"]
    assert notes == ["without inductor: no compiler for cpu"]


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


MODES = ["call", "graph", "cold call", "cold graph"]


@pytest.fixture
def pretended_gpu(monkeypatch):
    """The CPU, under the GPU's name."""
    monkeypatch.setattr(measure, "CudaClock", measure.CpuClock)
    monkeypatch.setattr(measure, "captured", lambda call, repeats: call)
    monkeypatch.setattr(measure, "stream_of", lambda device: measure.contextlib.nullcontext())
    monkeypatch.setattr(contest, "Problem", lambda case, device: problem.Problem(case, "cpu"))
    monkeypatch.setattr(contest.torch.cuda, "mem_get_info", lambda: (2**20, 2**20))
    monkeypatch.setattr(machine, "cache_bytes", lambda device: 1000)
    options = bench.parse(["--seconds", "0.001", "--rounds", "1"])
    options.device = "cuda"
    return options


def test_a_gpu_is_timed_by_calls_and_in_graphs(pretended_gpu):
    for operation in cases.operations_of("cuda"):
        case = cases.Case((4, 3, 2), "channels_first", "float32", operation)
        results, notes = contest.run_case(case, pretended_gpu, peers.PEERS[:2])
        assert [r["mode"] for r in results] == MODES and not notes
        assert all(set(r["ratios"]) == {"floor", "aten", "native"} for r in results)
    several = record(run([{**result(), "mode": mode} for mode in MODES]))
    assert "mode" in report.cases_table(several)[0]
    assert [row[3] for row in report.targets_table(several, report.EVERYTHING)[1]] == MODES


def test_who_cannot_be_captured_is_left_out_of_the_graphs(pretended_gpu, monkeypatch):
    def fails(call, repeats):
        raise RuntimeError("operation not permitted when stream is capturing")

    case = cases.Case((4, 3, 2), "channels_first", "float32", "train")
    notes = []
    monkeypatch.setattr(measure, "captured", fails)
    assert contest.in_graphs(case, {"aten": None}, 20, notes) == {}
    assert notes[0].startswith(f"{case.name}: without aten in graphs: RuntimeError: operation")
    with pytest.raises(RuntimeError):
        contest.in_graphs(case, {"torchbn": None}, 20, notes)
    with pytest.raises(RuntimeError):
        contest.in_graphs(case, {"torchbn_auto": None}, 20, notes)


def test_nothing_is_collected_during_a_capture(monkeypatch):
    done = []

    class Garbage:
        def __del__(self):
            done.append("collected")

    class Graph:
        def replay(self):
            done.append("replay")

    @measure.contextlib.contextmanager
    def graph(_, stream):
        done.append("begin")
        yield
        done.append("end")

    monkeypatch.setattr(measure.torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(measure.torch.cuda, "graph", graph)
    monkeypatch.setattr(measure.torch.cuda, "current_stream", lambda: None)
    old = Garbage()
    old.itself = old
    del old
    measure.captured(lambda: done.append("call"), repeats=2)()
    assert done == ["call"] * 3 + ["collected", "begin", "call", "call", "end", "replay"]


def test_cold_calls_rotate_through_other_memory():
    made = []
    calls = [lambda n=n: made.append(n) or [n] for n in range(3)]
    call = measure.rotated(calls)
    results = [call() for _ in range(7)]
    assert made == [0, 1, 2, 0, 1, 2, 0] and results[3] == [0] and results[3] is not results[0]
    # The results of a round are alive together.
    asked = problem.Problem(cases.Case((8, 3, 5), "channels_first", "float32", "train"), "cpu")
    problems = [asked, asked.copy(), asked.copy()]
    assert len({p.x.data_ptr() for p in problems}) == 3
    assert torch.equal(problems[2].x, asked.x)
    call = measure.rotated([p.contestant(peers.aten()) for p in problems])
    assert len({call()[0].data_ptr() for _ in range(3)}) == 3


@pytest.mark.parametrize("tensor, cache, room, copies", [
    (10, 100, 10**6, 31), (1000, 100, 10**6, 2), (10, 100, 300, 10), (10, 100, 1, 2),
    (30, 1270, 10**6, 128), (30, 1271, 10**6, None), (30, 1271, 300, None)])
def test_copies_are_three_times_the_cache_where_there_is_room(tensor, cache, room, copies):
    assert measure.copies_for(tensor, cache, room) == copies


@pytest.mark.parametrize("cache", [40, 50, 126], ids=["A100", "H100", "B200"])
def test_no_graph_is_of_more_calls_than_can_be_captured(cache):
    shapes = [*cases.shapes_of("cuda"), *cases.QUICK_SHAPES]
    for case in cases.select("cuda", shapes=shapes, operations=["train"]):
        count = measure.copies_for(case.tensor_bytes, cache * 2**20, 10 * 2**30)
        if count is None:
            assert case.tensor_bytes < 3 * cache * 2**20 / 126, "larger ones are measured cold"
        else:
            assert 2 <= count <= 128


def test_small_tensors_are_not_measured_cold(pretended_gpu, monkeypatch):
    monkeypatch.setattr(machine, "cache_bytes", lambda device: 2**20)
    case = cases.Case((4, 3, 2), "channels_first", "float32", "train")
    results, notes = contest.run_case(case, pretended_gpu, peers.PEERS[:1])
    assert [r["mode"] for r in results] == ["call", "graph"]
    assert notes == ["4x3x2 float32: not cold, as that would take more than 128 tensors"]


def test_every_peer_is_explained():
    (explained,) = [text for text in bench.__doc__.split("\n\n") if text.startswith("peers:")]
    assert all(re.search(rf"^  {name}\b", explained, re.MULTILINE) for name in peers.NAMES)


def test_the_gpus_peers_are_all_there():
    assert peers.names_of("cuda") == ["aten", "native", "inductor", "inductor_max", "cudnn",
                                      "cudnn_persistent", "torchbn_auto"]
    assert set(peers.TITLES) <= set(plot.COLOURS)
    _, notes = peers.choose(["cudnn"], "cpu")
    assert notes == ["without cudnn: it does not run on cpu"]
    chosen = cases.select("cuda")
    assert {c.dtype for c in chosen} == {"float32", "bfloat16", "float16"}
    assert {c.operation for c in chosen} == {"train", "backward", "eval", "eval_backward"}
    assert {(20, 6, 65536), (64, 1, 224, 224), (8, 3, 512, 512)} <= {c.shape for c in chosen}


def test_clocks_are_what_nvidia_smi_says(monkeypatch):
    def smi(command, **_):
        assert command[:2] == ["nvidia-smi", "--id=0"]
        assert command[2] == "--query-gpu=clocks.sm,clocks.mem,temperature.gpu"
        return bench.subprocess.CompletedProcess(command, 0, stdout="1980 MHz, 3201 MHz, 40\n")

    monkeypatch.setattr(machine.subprocess, "run", smi)
    assert machine.clocks("cuda") == {"clocks.sm": "1980 MHz", "clocks.mem": "3201 MHz",
                                      "temperature.gpu": "40"}
    assert machine.clocks("cpu") == {}


def test_notes_name_no_folder():
    for text in ("no '/opt/bin/c++' in (None, '/opt/bin/c++')", "/tmp/a_b/c.cpp:3: wrong\nmore"):
        brief = peers.brief(RuntimeError(text))
        assert brief.startswith("RuntimeError: ") and "c" in brief and "/" not in brief
    assert peers.brief(ValueError()) == "ValueError: "
    assert peers.brief(ValueError("3 GB/s, 1/2")) == "ValueError: 3 GB/s, 1/2"


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
    (["--shapes", "4"], "invalid parse_shape value: '4'"),
    (["--device", "tpu"], "invalid choice"),
    (["--device", "cuda", "--malloc", "warm"], "--"),
    (["--threads", "0"], "invalid positive value: '0'"),
    (["--peers", "apex"], "invalid choice: 'apex'"),
    (["--shapes", "4x2", "--layout", "channels_last"], "no case is left")])
def test_bad_options_are_explained(arguments, text, capsys):
    with pytest.raises(SystemExit):
        bench.parse(arguments)
    assert text in capsys.readouterr().err


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


def test_the_mean_is_geometric():
    assert summary.geometric_mean([4, 0.25]) == pytest.approx(1)
    assert math.isclose(summary.geometric_mean([2, 8]), 4)


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
