"""Measures how far the results of a training step are from float64, torchbn's beside ATen's.

A cell holds the largest error over all elements, torchbn's / ATen's, in units in the last place of
the result's type. A unit is that at the size of the result or, where its terms cancel, of these:
one standard deviation for the mean, |weight * xhat| + |bias| for y, likewise for dx, and for the
sums dgamma and dbeta the root of their terms' squares. Half an ulp is the rounding of an exact
result. Parameters and running statistics are float32, as automatic mixed precision has them; mean
and variance are those that the running statistics become with momentum 1.
"""

import argparse

import bench
import cases
import machine
import peers
import report
import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTITIES = ["mean", "variance", "y", "dx", "dgamma", "dbeta"]


def inputs(count):
    """By name, each of (N, C, H, W); the largest has `count` values per channel."""
    def generator():
        return torch.Generator().manual_seed(0)

    short = (16, 7, 49, 31)
    normal = torch.randn(short, generator=generator(), dtype=torch.float64)
    uniform = torch.rand((16, 2, count // 16 // 64, 64), generator=generator(),
                         dtype=torch.float64)
    return {"normal": normal, "mean 1000": normal + 1000,
            f"uniform, 2^{count.bit_length() - 1} values": uniform}


def step(batch_norm, x, dy, weight, bias):
    """The results of one training step, by quantity."""
    mean, var = torch.zeros_like(weight), torch.ones_like(weight)
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = batch_norm(leaves[0], mean, var, *leaves[1:], training=True)
    dx, dgamma, dbeta = torch.autograd.grad(y, leaves, dy)
    return dict(zip(QUANTITIES, (mean, var, y.detach(), dx, dgamma, dbeta), strict=True))


def reference(x, dy, weight, bias):
    """In float64, by quantity: the result, and the size of its terms."""
    x, dy, weight, bias = (t.double() for t in (x, dy, weight, bias))
    over = (0, 2, 3)
    count = x.numel() // x.shape[1]

    def mean_of(values):
        return values.mean(over, keepdim=True)

    gamma, beta = (p.view(1, -1, 1, 1) for p in (weight, bias))
    mean = mean_of(x)
    centered = x - mean
    mean, centered = mean + mean_of(centered), centered - mean_of(centered)
    var = mean_of(centered**2)
    invstd = (var + peers.EPS).rsqrt()
    xhat = centered * invstd
    product = dy * xhat
    along_one, along_xhat = mean_of(dy), mean_of(product)
    unbiased = var * count / (count - 1)
    return {
        "mean": (mean.flatten(), var.sqrt().flatten()),
        "variance": (unbiased.flatten(), unbiased.flatten()),
        "y": (gamma * xhat + beta, (gamma * xhat).abs() + beta.abs()),
        "dx": (gamma * invstd * (dy - along_one - xhat * along_xhat),
               (gamma * invstd).abs() * (dy.abs() + along_one.abs() + (xhat * along_xhat).abs())),
        "dgamma": (product.sum(over), (product**2).sum(over).sqrt()),
        "dbeta": (dy.sum(over), (dy**2).sum(over).sqrt()),
    }


def largest_error(actual, expected, size):
    """In ulp of the type of `actual`."""
    info = torch.finfo(actual.dtype)
    largest = torch.maximum(expected.abs(), size).clamp(min=info.tiny)
    ulp = torch.ldexp(torch.full_like(largest, info.eps), torch.frexp(largest).exponent - 1)
    return ((actual.double() - expected).abs() / ulp).max().item()


def measure(count):
    """One dict for each type, layout and input: quantity -> (torchbn's error, ATen's)."""
    contestants = [peers.torchbn(momentum=1), peers.aten(momentum=1)]
    rows = []
    for name, dtype in DTYPES.items():
        for kind, values in inputs(count).items():
            generator = torch.Generator().manual_seed(1)
            channels = values.shape[1]
            x = values.to(dtype)
            dy = (torch.randn(values.shape, generator=generator) + 0.25).to(dtype)
            weight = torch.rand(channels, generator=generator) + 0.5
            bias = torch.randn(channels, generator=generator)
            expected = reference(x, dy, weight, bias)
            for layout in cases.LAYOUTS:
                if layout == "channels_last":
                    x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
                ours, theirs = (step(f, x, dy, weight, bias) for f in contestants)
                rows.append({"dtype": name, "layout": layout, "input": kind, **{
                    q: (largest_error(ours[q], *expected[q]), largest_error(theirs[q], *expected[q]))
                    for q in QUANTITIES}})
    return rows


def cell(errors):
    return " / ".join(f"{e:.2f}" if e < 10 else f"{e:.0f}" if e < 1e5 else f"{e:.0e}"
                      for e in errors)


def text(rows):
    names = ["dtype", "layout", "input"]
    cells = [[*(row[n] for n in names), *(cell(row[q]) for q in QUANTITIES)] for row in rows]
    return "\n".join(report.plain_table([*names, *QUANTITIES], cells, len(names))) + "\n"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=22, metavar="B",
                        help="2^B values per channel in the largest input (default: 22)")
    options = parser.parse_args(arguments)
    if not 12 <= options.values <= 26:
        parser.error("--values is from 12 to 26")
    bench.load_library()
    print(f"The largest errors in ulp, torchbn / ATen; {machine.cpu_model()}, "
          f"torch {torch.__version__}.\n")
    print(text(measure(1 << options.values)), end="")


if __name__ == "__main__":
    main()
