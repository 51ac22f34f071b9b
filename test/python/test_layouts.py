"""Inputs, gradients and statistics in any shape and any place in memory."""

import itertools

import numpy as np
import pytest
import torch

from helpers import (DTYPES, LAYOUT, LAYOUTS, MODE, batch_norm, half_or_float, in_layout, name_of,
                     parameters, random, statistics, strides)
from reference import check_all


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=name_of)
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (3, 3, 4, 5), (2, 3, 2, 3, 4)],
                         ids=lambda s: f"rank{len(s)}")
def test_every_pair_of_layouts(device, shape, dtype):
    weight, bias = parameters(3, dtype, device)
    for (i, first), (j, second) in itertools.product(enumerate(LAYOUTS), repeat=2):
        x = in_layout(random(shape, dtype, device, seed=i), first)
        dy = in_layout(random(shape, dtype, device, seed=50 + j), second)
        for training in (True, False):
            check_all(x, dy, weight, bias, *statistics(3, dtype, device), training=training)


@MODE
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_dense_memory_in_any_order_is_a_batch_of_planes(device, order, training):
    shape = (6, 3, 4, 5)
    memory = [random([shape[axis] for axis in order], device=device, seed=i) for i in range(2)]
    arguments = *parameters(3, device=device), *statistics(3, device=device), training

    def results(view):
        x, dy = (view(values) for values in memory)
        y = batch_norm(x.requires_grad_(), *arguments)
        return y.detach(), torch.autograd.grad(y, x, dy)[0]

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        permuted = results(lambda values: values.permute(np.argsort(order).tolist()))
    assert "aten::copy_" not in {event.name for event in profile.events()}
    batch = int(np.prod([shape[axis] for axis in order[:order.index(1)]]))
    planes = results(lambda values: values.reshape(batch, 3, -1))
    for found, expected in zip(permuted, planes, strict=True):
        assert found.permute(order).is_contiguous()
        assert torch.equal(found.permute(order).flatten(), expected.flatten())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_an_evaluation_without_weight_keeps_the_layout_of_its_gradient(device, layout):
    x = in_layout(random((4, 3, 5, 6), device=device), layout).requires_grad_()
    output = batch_norm(x, None, None, *statistics(3, device=device))
    gradient = torch.autograd.grad(output, x, torch.ones((), device=device).expand(x.shape))[0]
    assert strides(gradient) == strides(torch.empty_like(x))


@MODE
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced"])
def test_a_gradient_that_is_differentiated_further_lies_as_the_input_does(device, training, layout):
    for other in ("contiguous", "channels_last"):
        x = in_layout(random((4, 3, 5, 6), device=device), layout).requires_grad_()
        dy = in_layout(random((4, 3, 5, 6), device=device, seed=1), other)
        weight, _ = parameters(3, device=device)
        output = batch_norm(x, weight, None, *statistics(3, device=device), training)
        gradient, = torch.autograd.grad(output, x, dy, create_graph=True)
        assert strides(gradient) == strides(torch.empty_like(x))


@MODE
def test_a_gradient_expanded_from_one_number(device, training):
    x = random((4, 3, 5, 5), device=device)
    for like in (x, in_layout(x, "channels_last")):
        dy = torch.tensor(0.7, device=device).expand(x.shape)
        check_all(like, dy, *parameters(3, device=device), *statistics(3, device=device),
                  training=training)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_statistics_may_be_columns_of_one_tensor(device, dtype):
    memory = random((4, 5), half_or_float(dtype, True), device, mean=2, std=0.1)
    before = memory.clone()
    mean, var = memory[:, 1], memory[:, 3]
    x, dy = random((6, 4, 5), dtype, device), random((6, 4, 5), dtype, device, seed=1)
    weight, bias = (p.repeat_interleave(3)[::3] for p in parameters(4, dtype, device))
    check_all(x, dy, weight, bias, mean, var, training=True)
    assert not torch.equal(memory[:, 1], before[:, 1])
    assert torch.equal(memory[:, ::2], before[:, ::2]), "wrote between the columns"
    check_all(x, dy, weight, bias, mean, var, training=False)


@pytest.mark.parametrize("shape", [
    (2, 1), (1, 1, 2), (1, 3, 2), (3, 1, 1, 1), (1, 17, 1, 3), (2, 5, 1, 1), (7, 33), (1, 4, 0x1001),
    (65, 2, 31), (2, 2, 127), (3, 31, 5, 5), (513, 3), (2, 130, 3, 3), (1, 2, 1, 1, 1, 9),
], ids=str)
@LAYOUT
def test_edge_sizes(device, shape, layout):
    x = in_layout(random(shape, device=device, mean=3), layout)
    dy = random(shape, device=device, seed=1)
    for training in (True, False):
        check_all(x, dy, *parameters(shape[1], device=device),
                  *statistics(shape[1], device=device), training=training)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (4, 3, 0, 5), (4, 0, 2, 2), (0, 0)],
                         ids=str)
@MODE
def test_an_empty_batch_is_no_batch(device, shape, training):
    x = torch.empty(shape, device=device, requires_grad=True)
    weight, bias = (p.requires_grad_() for p in parameters(shape[1], device=device))
    mean, var = statistics(shape[1], device=device)
    counter = torch.tensor(5, device=device)
    old = mean.clone(), var.clone()
    output = batch_norm(x, weight, bias, mean, var, training, num_batches_tracked=counter)
    assert output.shape == x.shape
    output.sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert torch.equal(bias.grad, torch.zeros_like(bias))
    assert torch.equal(mean, old[0]) and torch.equal(var, old[1]) and counter == 5


@MODE
def test_planes_of_one_cache_line_in_a_tensor_larger_than_the_cache(device, training):
    x = random((16500, 16, 8), torch.float64, device)
    dy = random((16500, 16, 8), torch.float64, device, seed=1)
    check_all(x, dy, *parameters(16, torch.float64, device),
              *statistics(16, torch.float64, device), training=training)
