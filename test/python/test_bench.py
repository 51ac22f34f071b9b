"""The benchmark's arithmetic and its words. Nothing here measures time."""

import json
import pathlib
import random as python_random
import sys

import pytest

from helpers import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import bench  # noqa: E402
import cases  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402


def test_shapes_are_read_as_they_are_written():
    assert cases.parse_shape("32x64x7x7") == (32, 64, 7, 7)
    assert cases.shape_name((32, 64)) == "32x64"
    for wrong in ("32", "", "3x", "0x4", "axb"):
        with pytest.raises(ValueError):
            cases.parse_shape(wrong)


def test_bytes_are_the_least_that_can_move():
    assert cases.Case((2, 3, 4), "channels_first", "bfloat16", "eval").minimal_bytes == 2 * 48
    assert cases.Case((2, 3), "channels_first", "float32", "train_step").minimal_bytes == 5 * 24


def test_a_selection_is_the_product_without_repetitions():
    chosen = cases.select("cpu")
    assert len(chosen) == len(set(chosen))
    assert {c.shape for c in chosen} == set(cases.CPU_SHAPES)
    only = cases.select("cpu", shapes=[(4, 1, 5), (4, 2)], dtypes=["float32"])
    assert {c.layout for c in only} == {"channels_first"} and len(only) == 6
    assert not cases.select("cpu", shapes=[(4, 2)], layouts=["channels_last"])
    assert {c.dtype for c in cases.select("cpu", quick=True)} == {"float32"}
    assert set(cases.CUDA_SHAPES) < {c.shape for c in cases.select("cuda")} | {()}


def test_everyone_is_first_equally_often():
    orders = [measure.order_of(i, ["a", "b", "c"]) for i in range(6)]
    assert [o[0] for o in orders] == ["a", "b", "c"] * 2
    assert all(sorted(o) == ["a", "b", "c"] for o in orders)


def test_samples_are_long_against_the_clock():
    assert measure.repeats_for(1.0) == 1
    assert measure.repeats_for(1e-4, least=2e-3) == 20
    assert measure.repeats_for(0.0) == 1000


@pytest.mark.parametrize("count, ranks", [(1, (1, 1)), (5, (1, 5)), (6, (1, 6)), (9, (2, 8)),
                                          (15, (4, 12)), (20, (6, 15)), (50, (18, 33))])
def test_the_interval_has_the_textbook_ranks(count, ranks):
    values = list(range(1, count + 1))
    python_random.Random(0).shuffle(values)
    assert measure.median_interval(values) == ranks


def test_the_interval_holds_the_median_as_often_as_it_says():
    generator = python_random.Random(1)
    hits = 0
    for _ in range(2000):
        low, high = measure.median_interval([generator.gauss(0, 1) for _ in range(15)])
        hits += low <= 0 <= high
    # 96.5% for ranks 4 and 12 of 15; three standard deviations of 2000 draws are 1.2%.
    assert abs(hits / 2000 - 0.965) < 0.013


def test_rounds_in_which_the_floor_jumps_are_left_out():
    assert measure.steady_rounds([1.0, 1.1, 5.0, 0.9, 1.0]) == [0, 1, 3, 4]
    wild = [1.0, 2.0, 4.0, 8.0]
    assert measure.steady_rounds(wild) == [0, 1, 2, 3]


def test_ratios_are_of_the_same_round():
    # Both slow down together: the ratio of each round stays 2, that of the medians too, and the
    # interval shows that there is no doubt.
    times = {"copy": [1.0] * 4, "aten": [2.0, 4, 6, 8], "torchbn": [1.0, 2, 3, 4]}
    summary = measure.summarize(times, minimal_bytes=5e9)
    assert summary["speedup"] == {"median": 2, "low": 2, "high": 2}
    assert summary["of_floor"]["median"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert summary["contestants"]["torchbn"]["gb_per_s"] == pytest.approx(2)
    assert summary["rounds"] == 4 and summary["discarded_rounds"] == 0


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


def result(median, shape="2x3", operation="train"):
    timing = {"seconds": 1e-3, "interquartile_range": 0, "gb_per_s": 1.0}
    ratio = {"median": median, "low": median * 0.9, "high": median * 1.05}
    return {"operation": operation, "dtype": "float32", "shape": shape, "layout": "channels_first",
            "mode": "call", "speedup": ratio, "of_floor": ratio,
            "contestants": {"copy": timing, "aten": timing, "torchbn": timing}}


def test_the_mean_comes_with_the_worst_case():
    groups = report.overall([result(4.0), result(0.25, "9x9"), result(3.0, operation="eval")])
    assert [g["operation"] for g in groups] == ["train", "eval"]
    assert groups[0]["geometric_mean"] == pytest.approx(1)
    assert (groups[0]["worst"], groups[0]["worst_case"]) == (0.25, "9x9 channels_first")
    assert (groups[0]["lost"], groups[0]["cases"]) == (1, 2)


def test_the_table_shows_every_case():
    environment = {"command": "python scripts/bench/bench.py", "device_model": "Chip",
                   "threads": 2, "versions": {"torch": "2"}, "allocation": {"mode": "default"},
                   "cache": "hot"}
    results = [result(4.0), result(0.25, "9x9")]
    for text in (report.markdown(environment, results), report.plain(environment, results)):
        assert "9x9" in text and "0.25" in text and "Chip" in text and "worst 0.25" in text
    lines = [line for line in report.markdown(environment, results).splitlines()
             if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4


def test_durations_have_a_fitting_unit():
    assert [report.duration(s) for s in (2, 0.0123, 4.5e-5, 2e-8)] == ["2 s", "12.3 ms", "45 us",
                                                                    "0.02 us"]


def test_the_command_names_no_folder():
    assert report.command_of(["--quick", "--json", "/home/me/x.json", "--out=/tmp/results"]) == (
        "python scripts/bench/bench.py --quick --json x.json --out=results")


def test_a_wrong_result_is_noticed_before_it_is_timed():
    for layout in cases.LAYOUTS:
        case = cases.Case((8, 5, 6, 6), layout, "float32", "train_step")
        problem = measure.Problem(case, "cpu")
        contestants = problem.contestants()
        assert set(bench.check(case, problem, contestants)) == {"aten", "torchbn"}
        right = contestants["torchbn"]()
        assert max(problem.errors(right).values()) <= 1
        assert problem.errors((right[0] * (1 + 1e-5), *right[1:]))["output"] > 1
        assert problem.errors((right[0], right[1] + 1e-5))["grad_input"] > 1
        broken = {**contestants, "torchbn": lambda: (right[0] + 1, *right[1:])}
        with pytest.raises(SystemExit, match="torchbn is wrong"):
            bench.check(case, problem, broken)


def test_a_run_leaves_a_file_without_host_or_path(tmp_path, capsys, monkeypatch):
    def no_rounds(contestants, clock, **_):
        for call in contestants.values():
            call()
        return {name: [1.0, 2.0] for name in contestants}

    monkeypatch.setattr(measure, "run_rounds", no_rounds)
    path = tmp_path / "folder.json"
    bench.main(["--shapes", "4x3x2", "--dtype", "float32", "bfloat16", "--json", str(path),
                "--out", str(tmp_path)])
    written = json.loads(path.read_text())
    assert len(written["results"]) == 12
    assert written["command"].endswith(f"--json folder.json --out {tmp_path.name}")
    assert str(tmp_path) not in path.read_text()
    assert {"speedup", "of_floor", "errors", "minimal_bytes", "page_faults", "times"} \
        <= set(written["results"][0])
    named = [p for p in pathlib.Path(tmp_path).iterdir() if p.name.startswith("bench_")]
    assert len(named) == 1 and json.loads(named[0].read_text()) == written
    assert "4x3x2" in capsys.readouterr().out


def test_bad_options_are_explained(capsys):
    for arguments, text in ((["--shapes", "4"], "invalid parse_shape value: '4'"),
                            (["--device", "tpu"], "invalid choice"),
                            (["--device", "cuda", "--malloc", "warm"], "--")):
        with pytest.raises(SystemExit):
            bench.parse(arguments)
        assert text in capsys.readouterr().err
