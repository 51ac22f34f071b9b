"""The operator against torch.nn.BatchNorm1d, 2d and 3d, and against the plain formula."""

import copy

import pytest
import torch

from helpers import (DTYPES, LAYOUT, MODE, batch_norm, half_or_float, in_layout, name_of,
                     parameters, random, statistics)
from models import replace_batch_norm
from reference import Expected, check_all, exact

SHAPES = [(20, 5), (6, 5, 9), (4, 5, 6, 7), (2, 5, 3, 4, 5)]
MODULES = {2: torch.nn.BatchNorm1d, 3: torch.nn.BatchNorm1d, 4: torch.nn.BatchNorm2d,
           5: torch.nn.BatchNorm3d}
RANKS = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"rank{len(s)}")


def make_module(shape, dtype, device, **options):
    module = MODULES[len(shape)](shape[1], device=device, dtype=dtype, **options)
    if module.affine:
        weight, bias = parameters(shape[1], dtype, device)
        module.weight.data.copy_(weight)
        module.bias.data.copy_(bias)
    return module


def run(layer, x, grad_output):
    """The output and all gradients."""
    x = x.detach().requires_grad_()
    output = layer(x)
    return [output, *torch.autograd.grad(output, [x, *layer.parameters()], grad_output)]


def assert_as_good(ours, theirs, exact_results):
    """Ours is at least as close to the float64 result as torch's own, or within four units in the
    last place of the largest element and the 16 roundings of these few steps."""
    for mine, other, truth in zip(ours, theirs, exact_results, strict=True):
        assert mine.dtype == other.dtype and mine.shape == other.shape
        truth, scale = truth.double(), truth.abs().max().item()
        error = (mine.double() - truth).abs().max().item()
        allowed = (other.double() - truth).abs().max().item()
        assert error <= max(allowed, 16 * torch.finfo(mine.dtype).eps * max(scale, 1))


@RANKS
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@LAYOUT
@pytest.mark.parametrize("options", [
    dict(), dict(affine=False), dict(momentum=0.4), dict(momentum=None), dict(momentum=0.0),
    dict(eps=0.1, track_running_stats=False),
], ids=["default", "plain", "momentum0.4", "cumulative", "momentum0", "untracked"])
def test_steps_of_training_and_evaluation_equal_the_module(device, shape, dtype, layout, options):
    theirs = make_module(shape, dtype, device, **options)
    ours = copy.deepcopy(theirs)
    replace_batch_norm(ours)
    truth = copy.deepcopy(theirs).double()
    for step in range(4):
        x = in_layout(random(shape, dtype, device, mean=step, std=2, seed=step), layout)
        dy = in_layout(random(shape, dtype, device, seed=100 + step), layout)
        training = step < 3
        for module in (theirs, ours, truth):
            module.train(training)
        assert_as_good(run(ours, x, dy), run(theirs, x, dy), run(truth, x.double(), dy.double()))
        assert_as_good(*([b for b in m.buffers() if b.is_floating_point()]
                         for m in (ours, theirs, truth)))
        assert ours.num_batches_tracked == theirs.num_batches_tracked


@RANKS
@pytest.mark.parametrize("dtype, parameter_type", [
    *((dtype, dtype) for dtype in DTYPES),
    (torch.bfloat16, torch.float32), (torch.float16, torch.float32)], ids=name_of)
@pytest.mark.parametrize("affine", ["affine", "weight", "bias", "plain"])
@MODE
def test_results_equal_the_formula(device, shape, dtype, parameter_type, affine, training):
    weight, bias = parameters(shape[1], parameter_type, device)
    check_all(random(shape, dtype, device, mean=0.5, std=3), random(shape, dtype, device, seed=9),
              weight if affine in ("affine", "weight") else None,
              bias if affine in ("affine", "bias") else None,
              *statistics(shape[1], parameter_type, device), training=training, momentum=0.3,
              eps=1e-4)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_parameters_may_be_of_different_types(device, dtype):
    shape = (6, 5, 9)
    weight, bias = parameters(5, dtype, device)
    mean, var = statistics(5, dtype, device)
    wide = half_or_float(dtype, True)
    for training in (True, False):
        check_all(random(shape, dtype, device), random(shape, dtype, device, seed=9),
                  weight, bias.to(wide), mean, var.to(wide), training=training)


@pytest.mark.parametrize("std", [1.0, 1e-2, 1e-3], ids=lambda s: f"std{s:g}")
@LAYOUT
def test_a_large_mean_costs_no_precision(device, layout, std):
    x = in_layout(random((16, 3, 20, 20), device=device, mean=1e3, std=std), layout)
    dy = random(x.shape, device=device, seed=1)
    check_all(x, dy, None, None, torch.zeros(3, device=device), torch.zeros(3, device=device),
              training=True, momentum=1.0, eps=0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_a_constant_channel_gives_exactly_the_bias(device, dtype):
    weight, bias = parameters(3, half_or_float(dtype, True), device)
    x = torch.tensor([0.1, -7.3, 1e4], dtype=dtype, device=device)
    x = x.view(1, 3, 1, 1).expand(4, 3, 5, 5).contiguous()
    expected = bias.to(dtype).view(1, 3, 1, 1).expand_as(x)
    for eps in (1e-5, 0.0):
        assert torch.equal(batch_norm(x, weight, bias, training=True, eps=eps), expected)


def test_the_running_variance_is_unbiased_and_the_normalising_one_is_not(device):
    x = torch.tensor([1.0, 2, 3, 4], device=device).view(4, 1)
    mean, var = torch.zeros(1, device=device), torch.ones(1, device=device)
    output = batch_norm(x, None, None, mean, var, True, 0.1, 0.0)
    torch.testing.assert_close(var.item(), 0.9 + 0.1 * 5 / 3)
    torch.testing.assert_close(mean.item(), 0.25)
    torch.testing.assert_close(output[0, 0].item(), -1.5 / 1.25**0.5)


def test_the_cumulative_average_is_the_average(device):
    mean, var = torch.full((3,), 7.0, device=device), torch.full((3,), 7.0, device=device)
    counter = torch.tensor(0, device=device)
    batches = [random((10, 3), torch.float32, device, seed=s) for s in range(5)]
    for x in batches:
        batch_norm(x, None, None, mean, var, True, None, num_batches_tracked=counter)
    assert counter == 5
    means = torch.stack([x.double().mean(0) for x in batches]).mean(0)
    # Five roundings to float32 of values below 2.
    Expected(exact(means), exact(means) * 0 + 5 * 2.0**-23).check("running_mean", mean)


def test_nan_and_infinity_go_where_torch_sends_them(device):
    for bad in (float("nan"), float("inf"), float("-inf")):
        x = random((6, 3, 4, 4), torch.float32, device)
        x[1, 1, 2, 2] = bad
        for training in (True, False):
            ours, theirs = ([torch.zeros(3, device=device), torch.ones(3, device=device)]
                            for _ in range(2))
            mine = batch_norm(x, None, None, *ours, training)
            other = torch.nn.functional.batch_norm(x, *theirs, training=training)
            for a, b in zip([mine, *ours], [other, *theirs], strict=True):
                torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-5)
