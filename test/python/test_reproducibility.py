"""The same bits, through the operator, for every number of threads and on every instruction set that
rounds alike: all but the baseline fuse products with the sums they are added to."""

import functools
import hashlib
import itertools

import numpy as np
import pytest
import torch

from helpers import DTYPES, batch_norm, half_or_float, in_layout, name_of, run_python

SHAPES = [(64, 24, 9, 9), (2, 3, 150, 151), (3000, 20), (4, 64, 5), (1, 1, 40000), (5, 20011),
          (33, 130, 7, 7), (4, 2, 3, 17, 19)]
LAYOUTS = ["contiguous", "channels_last"]
CASES = list(itertools.product(SHAPES, LAYOUTS, DTYPES))


@functools.cache
def drawn(shape, seed):
    """By numpy: torch's own random numbers depend on the instruction set."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def values(shape, dtype, seed, mean=0.0):
    return (drawn(tuple(shape), seed) + mean).to(dtype)


def everything(shape, layout, dtype):
    """Everything that training and evaluation write, forward and backward."""
    x = in_layout(values(shape, dtype, 0, mean=1), layout).requires_grad_()
    dy = in_layout(values(shape, dtype, 1), layout)
    of_channel = [values(shape[1:2], half_or_float(dtype, wide=True), seed) for seed in range(2, 6)]
    weight, bias = (p.requires_grad_() for p in of_channel[:2])
    mean, var = of_channel[2], of_channel[3].abs() + 0.5
    results = []
    for training in (True, False):
        output = batch_norm(x, weight, bias, mean, var, training)
        results += [output, *torch.autograd.grad(output, (x, weight, bias), dy)]
    return [t.detach() for t in (*results, mean, var)]


def digest(tensors):
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def digests(shapes=SHAPES):
    """One line for each case; what test_instruction_sets runs in processes of their own."""
    return [f"{shape} {layout} {name_of(dtype)} {digest(everything(shape, layout, dtype))}"
            for shape, layout, dtype in CASES if shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_of_threads(shape):
    torch.set_num_threads(1)
    expected = digests([shape])
    for threads in range(2, 9):
        torch.set_num_threads(threads)
        assert digests([shape]) == expected, f"{threads} threads"


def digests_with(capability, threads):
    done = run_python("import helpers, test_reproducibility, torch\n"
                      "helpers.load_library()\n"
                      f"torch.set_num_threads({threads})\n"
                      "print(*test_reproducibility.digests(), sep='\\n')",
                      ATEN_CPU_CAPABILITY=capability)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_instruction_sets(capability):
    """A level that the machine lacks is lowered to one that it has, and changes nothing either."""
    if torch.backends.cpu.get_cpu_capability() == "DEFAULT":
        pytest.skip("this machine has neither AVX2 nor AVX-512")
    torch.set_num_threads(2)
    assert digests_with(capability, threads=3) == digests()


def test_baseline():
    baseline = digests_with("default", threads=1)
    assert baseline == digests_with("default", threads=3)
    if torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        assert baseline != digests(), "without fused multiply-adds it rounds otherwise"
