"""Timing contestants side by side."""

import math
import resource
import time

import torch


class CpuClock:
    def time(self, call, repeats):
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats


class CudaClock:
    """Between two events on the current stream; launching is part of it where it takes longer."""

    def time(self, call, repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3 / repeats


def captured(call, repeats=20):
    """A call that replays a CUDA graph of so many calls: the time of the kernels alone."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    return graph.replay


def repeats_for(seconds_per_call, least=2e-3):
    """Calls per sample, so that one sample is long against the clock and what disturbs it."""
    return max(1, min(1000, math.ceil(least / max(seconds_per_call, 1e-9))))


def order_of(round_number, names):
    """Each contestant is first, second and last equally often."""
    shift = round_number % len(names)
    return names[shift:] + names[:shift]


def run_rounds(contestants, clock, *, seconds, least_rounds, most_rounds=200):
    """Seconds per call of every contestant in every round: {name: [seconds, ...]}."""
    names = list(contestants)
    estimate = {}
    for name in names:
        clock.time(contestants[name], 1)  # the first call allocates and chooses kernels
        estimate[name] = clock.time(contestants[name], 2)
    repeats = {name: repeats_for(estimate[name]) for name in names}
    times = {name: [] for name in names}
    start = time.perf_counter()
    for number in range(most_rounds):
        if number >= least_rounds and time.perf_counter() - start > seconds:
            break
        for name in order_of(number, names):
            times[name].append(clock.time(contestants[name], repeats[name]))
    return times


def page_faults(call):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
