"""From the times of all rounds to the numbers that are kept."""

import math
import statistics


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


def rounded(value, digits=4):
    """As many digits as mean anything, and no decimal point where there is nothing behind it."""
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() else value


def ratio(times, other, rounds):
    """Median and interval of other / torchbn within each round: above 1 torchbn is faster."""
    ratios = [times[other][i] / times["torchbn"][i] for i in rounds]
    return [rounded(value, 3) for value in (statistics.median(ratios), *median_interval(ratios))]


def median_and_quartiles(samples):
    middle = statistics.median(samples)
    low, _, high = statistics.quantiles(samples, n=4) if len(samples) > 1 else [middle] * 3
    return [rounded(middle * 1e6), rounded(low * 1e6, 3), rounded(high * 1e6, 3)]


def summarize(times):
    """The numbers of one case: the ratio of every contestant to torchbn, microseconds of each."""
    rounds = steady_rounds(times["floor"])
    return {
        "rounds": len(rounds),
        "discarded": len(times["floor"]) - len(rounds),
        "microseconds": {name: median_and_quartiles([samples[i] for i in rounds])
                         for name, samples in times.items()},
        "ratios": {name: ratio(times, name, rounds) for name in times if name != "torchbn"},
    }


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values))


def peers_of(contestants):
    return [name for name in contestants if name not in ("floor", "torchbn")]


def best_peer(result):
    """Whom the headline ratio is taken against: the fastest of the others."""
    return min(peers_of(result["ratios"]), key=lambda name: result["microseconds"][name][0])


def headline(result):
    """Median and interval of the ratio to the best peer."""
    return result["ratios"][best_peer(result)]
