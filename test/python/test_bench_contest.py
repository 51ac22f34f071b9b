"""One case of the benchmark: who takes part, whether they are right, and the modes of a GPU."""

import re

import pytest
import torch

from bench_record import record, result, run

import bench
import cases
import contest
import machine
import measure
import peers
import plot
import problem
import report


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
    monkeypatch.setattr(peers, "OURS", wrong("torchbn"))
    with pytest.raises(contest.CaseError, match="torchbn is wrong"):
        contest.contestants_of(case, asked, [peers.PEERS[0]])
    monkeypatch.setattr(peers, "OURS", peers.Peer("torchbn", "torchbn", fails))
    with pytest.raises(RuntimeError, match="no luck"):
        contest.contestants_of(case, asked, [peers.PEERS[0]])


def test_a_peer_that_cannot_take_part_is_named(monkeypatch):
    absent = peers.Peer("inductor", "Inductor", None, lambda device: f"no compiler for {device}")
    monkeypatch.setattr(peers, "PEERS", [peers.PEERS[0], absent])
    chosen, notes = peers.choose(["aten", "inductor"], "cpu")
    assert [peer.name for peer in chosen] == ["aten"]
    assert notes == ["without inductor: no compiler for cpu"]


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
                                      "cudnn_persistent", "cudnn_graph"]
    assert peers.names_of("cuda", compiles=True) == ["inductor", "inductor_max"]
    assert peers.names_of("cpu", compiles=False) == ["aten"]
    assert set(peers.TITLES) <= set(plot.COLOURS)
    _, notes = peers.choose(["cudnn"], "cpu")
    assert notes == ["without cudnn: it does not run on cpu"]
    chosen = cases.select("cuda")
    assert {c.dtype for c in chosen} == {"float32", "bfloat16", "float16"}
    assert {c.operation for c in chosen} == {"train", "backward", "eval", "eval_backward"}
    assert {(20, 6, 65536), (64, 1, 224, 224), (8, 3, 512, 512)} <= {c.shape for c in chosen}


def test_notes_name_no_folder():
    for text in ("no '/opt/bin/c++' in (None, '/opt/bin/c++')", "/tmp/a_b/c.cpp:3: wrong\nmore"):
        brief = machine.brief_error(RuntimeError(text))
        assert brief.startswith("RuntimeError: ") and "c" in brief and "/" not in brief
    assert machine.brief_error(ValueError()) == "ValueError: "
    assert machine.brief_error(ValueError("3 GB/s, 1/2")) == "ValueError: 3 GB/s, 1/2"
