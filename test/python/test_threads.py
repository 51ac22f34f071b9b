"""Calls from several threads at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers import batch_norm, parameters, random, statistics
from models import BatchNorm

pytestmark = pytest.mark.works_with("threads")
THREADS = 4
ROUNDS = 20


def at_once(function):
    """function(0), function(1), ... on threads that start together."""
    barrier = threading.Barrier(THREADS)

    def body(index):
        barrier.wait()
        return function(index)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(body, range(THREADS)))


def train(index):
    """Some steps on a layer of the thread's own, small calls and calls that are worth two cores."""
    module = BatchNorm(8)
    results = []
    for step in range(ROUNDS):
        shape = (16, 8, 40, 40) if step % 5 == 0 else (4, 8, 3)
        x = random(shape, seed=100 * index + step).requires_grad_()
        output = module(x)
        gradients = torch.autograd.grad(output.sin().sum(), (x, *module.parameters()))
        results += [output.sum(), *(g.sum() for g in gradients)]
    return torch.stack(results), *module.buffers()


def test_training_on_several_threads_equals_training_on_one():
    alone = [train(index) for index in range(THREADS)]
    together = at_once(train)
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_threads_may_share_what_evaluation_reads():
    weight, bias = parameters(8)
    mean, var = statistics(8)
    x = random((16, 8, 20, 20))
    expected = batch_norm(x, weight, bias, mean, var)

    def evaluate(_):
        return all(torch.equal(batch_norm(x, weight, bias, mean, var), expected)
                   for _ in range(ROUNDS))

    assert all(at_once(evaluate))


def test_one_threads_evaluation_beside_anothers_training():
    def work(index):
        if index % 2:
            return train(index)[0]
        module = BatchNorm(8).eval()
        return torch.stack([module(random((4, 8, 30, 30), seed=s)).sum() for s in range(ROUNDS)])

    alone = [work(index) for index in range(THREADS)]
    for one, other in zip(alone, at_once(work), strict=True):
        assert torch.equal(one, other)


def test_backward_passes_on_several_threads_add_up():
    """The graphs share weight and bias, whose gradients are accumulated."""
    weight, bias = (p.double().requires_grad_() for p in parameters(8))
    inputs = [random((4, 8, 5, 5), torch.float64, seed=s) for s in range(THREADS)]

    def backward(index):
        batch_norm(inputs[index], weight, bias, training=True).sin().sum().backward()

    at_once(backward)
    together = weight.grad.clone(), bias.grad.clone()
    weight.grad = bias.grad = None
    for index in range(THREADS):
        backward(index)
    torch.testing.assert_close(together, (weight.grad, bias.grad))
