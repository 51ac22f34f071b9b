"""torch.func.functionalize of the public operator: updates, graphs, errors and gradients."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from helpers import MODE, MOMENTUM, batch_norm, parameters, random, statistics

DOUBLE = torch.float64


@pytest.mark.works_with("torch.func.functionalize")
@MODE
@MOMENTUM
def test_functionalize_keeps_the_updates(device, training, momentum):
    x = random((4, 3, 5), device=device)
    weight, bias = parameters(3, device=device)
    expected = [*statistics(3, device=device), torch.tensor(2, device=device)]
    buffers = [b.clone() for b in expected]

    def function(x, mean, var, counter):
        return batch_norm(x, weight, bias, mean, var, training, momentum,
                          num_batches_tracked=counter)

    found = torch.func.functionalize(function)(x, *buffers)
    torch.testing.assert_close([found, *buffers], [function(x, *expected), *expected])
    assert buffers[2] == 2 + training


@pytest.mark.works_with("torch.func.functionalize")
def test_a_functionalized_graph_mutates_nothing_but_its_results():
    """The updates are copies at the end; before them there is no in-place operator."""
    def function(x, mean, var, counter):
        return batch_norm(x, None, None, mean, var, True, num_batches_tracked=counter)

    arguments = (random((4, 3)), *statistics(3), torch.tensor(2))
    graph = make_fx(torch.func.functionalize(function))(*arguments).graph
    names = [str(node.target) for node in graph.nodes if node.op == "call_function"]
    assert [n for n in names if n.split(".")[1].endswith("_")] == ["aten.copy_.default"] * 3
    assert names[-3:] == ["aten.copy_.default"] * 3


@pytest.mark.works_with("torch.func.functionalize")
def test_functionalize_keeps_errors_and_gradients():
    x = random((4, 3), DOUBLE).requires_grad_()
    mean, var = statistics(3, DOUBLE)
    with pytest.raises(RuntimeError, match="needs both, but running_var is None"):
        torch.func.functionalize(lambda x, m: batch_norm(x, None, None, m, None))(x, mean)
    with pytest.raises(RuntimeError, match="running_var must have one value per channel"):
        torch.func.functionalize(lambda x, m, v: batch_norm(x, None, None, m, v, True))(
            x, mean, torch.ones(2, dtype=DOUBLE))
    gradients = []
    for function in (batch_norm, torch.func.functionalize(lambda *a: batch_norm(*a))):
        output = function(x, None, None, mean.clone(), var.clone(), True)
        gradients.append(torch.autograd.grad(output.sin().sum(), x)[0])
    torch.testing.assert_close(*gradients)


@pytest.mark.works_with("torch.func.functionalize")
@MOMENTUM
def test_buffers_are_updated_within_grad_of_functionalize(device, momentum):
    """The order that the error without functionalize names."""
    x = random((4, 3, 5), DOUBLE, device)
    expected = [*statistics(3, DOUBLE, device), torch.tensor(2, device=device)]
    buffers = [b.clone() for b in expected]

    def loss(x, mean, var, counter):
        return batch_norm(x, None, None, mean, var, True, momentum,
                          num_batches_tracked=counter).sin().sum()

    with pytest.raises(RuntimeError, match=r"grad\(functionalize\(f\)\)"):
        torch.func.grad(loss)(x, *buffers)
    found = torch.func.grad(torch.func.functionalize(loss))(x, *buffers)
    x.requires_grad_()
    wanted, = torch.autograd.grad(loss(x, *expected), x)
    torch.testing.assert_close([found, *buffers], [wanted, *expected])
