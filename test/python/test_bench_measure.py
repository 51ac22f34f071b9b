"""How the benchmark measures: rounds, intervals, ratios, and what it says of the machine."""

import itertools
import math
import platform
import random as python_random

import pytest

from bench_record import result

import bench
import machine
import measure
import summary


@pytest.mark.parametrize("names", ["a", "ab", "abc", "abcd", "abcdefg"])
def test_everyone_has_every_place_and_every_predecessor_equally_often(names):
    orders = [measure.order_of(i, list(names)) for i in range(2 * len(names))]
    for place in range(len(names)):
        assert sorted(order[place] for order in orders) == sorted(2 * names)
    followed = sorted(pair for order in orders for pair in itertools.pairwise(order))
    assert followed == sorted(2 * list(itertools.permutations(names, 2)))


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
    assert calls[6:] == list("abcbcacabcba")  # after two calls each to warm up and estimate


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


def test_the_mean_is_geometric():
    assert summary.geometric_mean([4, 0.25]) == pytest.approx(1)
    assert math.isclose(summary.geometric_mean([2, 8]), 4)


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


def test_generations_of_a_processor_have_names_of_their_own(tmp_path):
    def model(text):
        (tmp_path / "cpuinfo").write_text(text)
        return machine.cpu_model(tmp_path / "cpuinfo")

    core = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: Chip 7\nflags\t\t:\n\n"
    assert model(core.format(0, 17) + core.format(1, 99)) == "Chip 7 (family 25, model 17)"
    assert model("processor : 0\nmodel name : Chip 7\n") == "Chip 7"
    assert model("processor : 0\n") == (platform.processor() or platform.machine())


def test_time_that_the_hypervisor_took_is_a_share_of_all():
    assert machine.stolen_percent((100, 1), (300, 5)) == 2
    assert machine.stolen_percent((0, 0), (0, 0)) is None


def test_the_command_names_no_folder():
    assert machine.command_of(["--quick", "--json", "/home/me/x.json", "--out=/tmp/results",
                               "--plot", "/home/me/p"]) == (
        "scripts/bench.sh --quick --json x.json --out=results --plot p")


def test_clocks_are_what_nvidia_smi_says(monkeypatch):
    def smi(command, **_):
        assert command[:2] == ["nvidia-smi", "--id=0"]
        assert command[2] == "--query-gpu=clocks.sm,clocks.mem,temperature.gpu"
        return bench.subprocess.CompletedProcess(command, 0, stdout="1980 MHz, 3201 MHz, 40\n")

    monkeypatch.setattr(machine.subprocess, "run", smi)
    assert machine.clocks() == {"clocks.sm": "1980 MHz", "clocks.mem": "3201 MHz",
                                "temperature.gpu": "40"}
