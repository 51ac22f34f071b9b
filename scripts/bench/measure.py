"""Timing contestants side by side, and judging their results first."""

import math
import resource
import statistics
import time

import torch
import torch.nn.functional as F

MOMENTUM, EPS = 0.1, 1e-5


class Problem:
    """The tensors of a case and what the contestants do with them."""

    def __init__(self, case, device):
        self.case = case
        self.dtype = getattr(torch, case.dtype)
        channels = case.shape[1]
        torch.manual_seed(0)
        self.x = self._tensor(device)
        self.dy = self._tensor(device) if case.operation == "train_step" else None
        # Parameters of half inputs are float32, as automatic mixed precision has them.
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        options = dict(dtype=wide, device=device)
        self.weight = torch.rand(channels, **options) + 0.5
        self.bias = torch.randn(channels, **options)
        self.mean = torch.zeros(channels, **options)
        self.var = torch.ones(channels, **options)
        if case.operation == "train_step":
            for tensor in (self.x, self.weight, self.bias):
                tensor.requires_grad_()

    def _tensor(self, device):
        x = torch.empty(self.case.shape, dtype=self.dtype, device=device).normal_(0.5, 2)
        if self.case.layout == "channels_last":
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        return x

    def contestants(self):
        """name -> a call without arguments. All allocate what they return."""
        return {"copy": self.floor, "aten": self._of(self._aten), "torchbn": self._of(self._ours)}

    def floor(self):
        """The same traffic without any work: a copy, and in backward the sum of two tensors."""
        with torch.no_grad():
            copied = torch.empty_like(self.x).copy_(self.x)
            return (copied, self.x + self.dy) if self.dy is not None else (copied,)

    def _of(self, forward):
        if self.case.operation != "train_step":
            return lambda: (forward(),)
        leaves = (self.x, self.weight, self.bias)

        def step():
            output = forward()
            return (output, *torch.autograd.grad(output, leaves, self.dy))

        return step

    def _aten(self):
        return F.batch_norm(self.x, self.mean, self.var, self.weight, self.bias,
                            self.case.operation != "eval", MOMENTUM, EPS)

    def _ours(self):
        return torch.ops.torchbn.batch_norm(self.x, self.weight, self.bias, self.mean, self.var,
                                            self.case.operation != "eval", MOMENTUM, EPS)

    def errors(self, results):
        """The worst error of output and grad_input against float64, in units of what a correctly
        rounded float32 computation may be off. Looks at up to eight channels."""
        channels = sorted({round(i * (self.case.shape[1] - 1) / 7) for i in range(8)})
        axes = [0, *range(2, len(self.case.shape))]
        size = [1, -1] + [1] * (len(self.case.shape) - 2)

        def pick(tensor):
            return tensor.detach()[:, channels].double()

        def vector(tensor):
            return tensor.detach()[channels].double().view(size)

        x, weight, bias = pick(self.x), vector(self.weight), vector(self.bias)
        if self.case.operation == "eval":
            mean, var = vector(self.mean), vector(self.var)
        else:
            mean = x.mean(axes, keepdim=True)
            var = (x - mean).square().mean(axes, keepdim=True)
        invstd = (var + EPS).rsqrt()
        xhat = (x - mean) * invstd
        unit = torch.finfo(torch.float64 if self.dtype == torch.float64 else torch.float32).eps

        def worst(found, expected, magnitude):
            # Half results are also rounded to their own type, by half a unit.
            rounding = 0.51 * torch.finfo(self.dtype).eps * expected.abs()
            return ((pick(found) - expected).abs() / (rounding + 4 * unit * magnitude)).max().item()

        errors = {"output": worst(results[0], xhat * weight + bias,
                                  (xhat * weight).abs() + bias.abs() + 1)}
        if self.dy is not None:
            dy = pick(self.dy)
            along = (dy * xhat).mean(axes, keepdim=True)
            scale = weight * invstd
            errors["grad_input"] = worst(
                results[1], scale * (dy - dy.mean(axes, keepdim=True) - xhat * along),
                scale * (dy.abs() + dy.abs().mean(axes, keepdim=True)
                         + xhat.abs() * (dy * xhat).abs().mean(axes, keepdim=True)))
        return errors


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


def steady_rounds(floor_times, tolerance=0.15):
    """The rounds in which the floor is near its median: in the others the machine did something
    else. All of them where that would leave less than half."""
    middle = statistics.median(floor_times)
    steady = [i for i, t in enumerate(floor_times) if abs(t - middle) <= tolerance * middle]
    return steady if 2 * len(steady) >= len(floor_times) else list(range(len(floor_times)))


def median_interval(values, confidence=0.95):
    """An interval that holds the median of what the values are drawn from with at least the given
    probability, from order statistics: no assumption on the distribution, no random numbers. With
    five values or fewer it is their range, whose confidence is lower (94% for five)."""
    ordered = sorted(values)
    n = len(ordered)
    outside = 0.0  # probability that fewer than k + 1 values lie on one side of the median
    k = 0
    while True:
        outside += math.comb(n, k) / 2**n
        if 2 * outside > 1 - confidence or 2 * (k + 1) > n:
            break
        k += 1
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]


def ratio(times, numerator, denominator, rounds):
    """Median and interval of the per-round ratios."""
    ratios = [times[numerator][i] / times[denominator][i] for i in rounds]
    low, high = median_interval(ratios)
    return {"median": statistics.median(ratios), "low": low, "high": high}


def summarize(times, minimal_bytes):
    """The numbers of one case. speedup = aten / torchbn, of_floor = copy / torchbn."""
    rounds = steady_rounds(times["copy"])
    summary = {"rounds": len(rounds), "discarded_rounds": len(times["copy"]) - len(rounds),
               "speedup": ratio(times, "aten", "torchbn", rounds),
               "of_floor": ratio(times, "copy", "torchbn", rounds), "contestants": {}}
    for name, samples in times.items():
        samples = [samples[i] for i in rounds]
        middle = statistics.median(samples)
        quartiles = statistics.quantiles(samples, n=4) if len(samples) > 1 else [middle] * 3
        summary["contestants"][name] = {
            "seconds": middle, "interquartile_range": quartiles[2] - quartiles[0],
            "gb_per_s": minimal_bytes / middle / 1e9}
    return summary
