"""Timing contestants side by side."""

import contextlib
import gc
import itertools
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


def stream_of(device):
    """Where a case is prepared and measured: on a GPU a stream that can be captured. A backward pass
    runs on its forward pass's stream, so that it can be captured alone if that is the same one."""
    return torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else contextlib.nullcontext()


def captured(call, repeats=20):
    """A call that replays a CUDA graph of so many calls: the time of the kernels alone."""
    for _ in range(3):
        call()
    gc.collect()  # a graph that is collected during the capture makes that fail
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for _ in range(repeats):
            call()
    return graph.replay


def rotated(calls):
    """A call that makes another one of the calls each time. Results are kept for a round, so that
    they lie in other memory every time as well."""
    numbers = itertools.cycle(range(len(calls)))
    kept = [None] * len(calls)

    def call():
        number = next(numbers)
        kept[number] = None
        kept[number] = calls[number]()
        return kept[number]

    return call


# More would take minutes to capture, and be of no use: calls on tensors of which so many fit into
# the cache are a matter of launches, wherever the tensors lie.
MOST_COPIES = 128


def copies_for(tensor_bytes, cache_bytes, room_bytes):
    """How many tensors to rotate through: three times the cache, or what there is room for; none
    where these are too many. Of a contestant's memory that is a third, as its results and the other
    operand need as much."""
    wanted = math.ceil(3 * cache_bytes / tensor_bytes) + 1
    if wanted > MOST_COPIES:
        return None
    return max(2, min(wanted, int(room_bytes / (3 * tensor_bytes))))


def repeats_for(seconds_per_call, least=2e-3):
    """Calls per sample, so that one sample is long against the clock and what disturbs it."""
    return max(1, min(1000, math.ceil(least / max(seconds_per_call, 1e-9))))


def order_of(round_number, names):
    """A Williams design: in twice as many rounds as there are contestants each is everywhere in the
    order equally often, and each follows each other one equally often, whose caches it finds."""
    count = len(names)
    shift = round_number % count
    zigzag = [(i + 1) // 2 if i % 2 else -i // 2 for i in range(count)]
    order = [names[(step + shift) % count] for step in zigzag]
    return order if round_number // count % 2 == 0 else order[::-1]


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
