"""Grad modes, version counters, saved tensors: how the operator behaves inside autograd."""

import pytest
import torch

from helpers import MODE, Snapshot, batch_norm, parameters, random, statistics
from reference import Normalization


def state(device="cpu", channels=3):
    return (*statistics(channels, device=device), torch.tensor(0, device=device))


@pytest.mark.works_with("version counters, saved tensors")
@MODE
def test_training_bumps_each_version_counter_once(device, training):
    mean, var, counter = state(device)
    x = random((4, 3), device=device).requires_grad_()
    weight, bias = parameters(3, device=device)
    before = [t._version for t in (x, weight, bias, mean, var, counter)]
    batch_norm(x, weight, bias, mean, var, training, num_batches_tracked=counter)
    bumps = [t._version - b for t, b in zip((x, weight, bias, mean, var, counter), before,
                                            strict=True)]
    assert bumps == [0, 0, 0, *([int(training)] * 3)]


@pytest.mark.works_with("torch.no_grad, torch.inference_mode")
@MODE
def test_no_grad_records_nothing_and_still_updates(device, training):
    mean, var, counter = state(device)
    x = random((4, 3), device=device).requires_grad_()
    before = mean._version
    with torch.no_grad():
        output = batch_norm(x, None, None, mean, var, training, num_batches_tracked=counter)
    assert output.grad_fn is None and not output.requires_grad
    assert counter == int(training) and mean._version == before + int(training)
    truth = Normalization(x, **({} if training else dict(mean=mean, var=var)))
    truth.output().check("output", output)


@pytest.mark.works_with("torch.no_grad, torch.inference_mode")
@MODE
def test_inference_mode(device, training):
    mean, var, counter = state(device)
    with torch.inference_mode():
        x = random((4, 3), device=device)
        output = batch_norm(x, None, None, mean, var, training, num_batches_tracked=counter)
    assert output.is_inference() and counter == int(training)


@pytest.mark.works_with("torch.no_grad, torch.inference_mode")
def test_an_inference_tensor_can_be_updated_only_in_inference_mode(device):
    with torch.inference_mode():
        mean, var, counter = state(device)
        batch_norm(random((4, 3), device=device), None, None, mean, var, True,
                   num_batches_tracked=counter)
    before = mean.clone(), var.clone()
    with pytest.raises(RuntimeError, match="running_mean is an inference tensor.*clone"):
        batch_norm(random((4, 3), device=device), None, None, mean, var, True,
                   num_batches_tracked=counter)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1]) and counter == 1
    batch_norm(random((4, 3), device=device), None, None, mean, var, False)


@pytest.mark.works_with("torch.no_grad, torch.inference_mode")
@pytest.mark.parametrize("inference", ["input", "weight"])
def test_an_inference_tensor_that_backward_needs_is_refused_before_the_update(device, inference):
    with torch.inference_mode():
        tensors = {"input": random((4, 3), device=device), "weight": torch.ones(3, device=device)}
    other = {"input": "weight", "weight": "input"}[inference]
    tensors[other] = tensors[other].clone().requires_grad_()
    mean, var, counter = state(device)
    snapshot = Snapshot(mean, var, counter)
    with pytest.raises(RuntimeError, match=f"{inference} is an inference tensor.*clone"):
        batch_norm(**tensors, running_mean=mean, running_var=var, training=True,
                   num_batches_tracked=counter)
    snapshot.assert_unchanged()


@pytest.mark.works_with("version counters, saved tensors")
@pytest.mark.parametrize("changed", ["input", "weight"])
@MODE
def test_changing_a_saved_tensor_is_an_error_in_backward(device, training, changed):
    x = random((4, 3), device=device).requires_grad_()
    weight, bias = (p.requires_grad_() for p in parameters(3, device=device))
    leaf = x * 1
    output = batch_norm(leaf, weight, bias, *state(device)[:2], training)
    with torch.no_grad():
        (leaf if changed == "input" else weight).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.works_with("version counters, saved tensors")
@MODE
def test_changing_bias_or_output_afterwards_is_fine(device, training):
    x = random((4, 3), device=device).requires_grad_()
    weight, bias = (p.requires_grad_() for p in parameters(3, device=device))
    output = batch_norm(x, weight, bias, *state(device)[:2], training)
    with torch.no_grad():
        bias.add_(1)
    output.mul_(2).sum().backward()
    assert torch.equal(bias.grad, torch.full((3,), 8.0, device=device))


def test_an_evaluation_without_gradient_of_weight_keeps_no_input(device):
    x = random((4, 3), device=device).requires_grad_()
    leaf = x * 1
    output = batch_norm(leaf, *parameters(3, device=device), *state(device)[:2])
    with torch.no_grad():
        leaf.zero_()
    output.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.works_with("several forward passes before one backward")
@MODE
def test_backward_uses_the_statistics_of_its_own_forward(device, training):
    """Two forwards, a training step that changes the buffers, then one backward through both."""
    mean, var, counter = state(device)
    weight, bias = (p.requires_grad_() for p in parameters(3, device=device))
    first, second = (random((6, 3, 4), device=device, mean=m, seed=m).requires_grad_()
                     for m in (0, 2))
    truths, outputs = [], []
    for x in (first, second):
        given = {} if training else dict(mean=mean.clone(), var=var.clone())
        truths.append(Normalization(x, weight, bias, **given))
        outputs.append(batch_norm(x, weight, bias, mean, var, training,
                                  num_batches_tracked=counter))
        batch_norm(random((6, 3, 4), device=device, mean=50, std=9), None, None, mean, var, True)
    mean.zero_()
    var.fill_(1e6)
    dy = random((6, 3, 4), device=device, seed=7)
    (outputs[0] * dy).sum().backward(retain_graph=True)
    expected = truths[0].gradients(dy)
    for name, tensor, one in zip(("input", "weight", "bias"), (first, weight, bias), expected,
                                 strict=True):
        one.check(name, tensor.grad)
    weight.grad = bias.grad = None
    (outputs[1] * dy).sum().backward()
    for name, tensor, one in zip(("input", "weight", "bias"), (second, weight, bias),
                                 truths[1].gradients(dy), strict=True):
        one.check(name, tensor.grad)


@pytest.mark.works_with("several forward passes before one backward")
def test_the_same_statistics_twice_in_one_graph(device):
    mean, var, counter = state(device)
    expected_mean, expected_var = mean.clone(), var.clone()
    x = random((6, 3, 4), device=device).requires_grad_()
    y = batch_norm(x, None, None, mean, var, True, num_batches_tracked=counter)
    z = batch_norm(y * 2 + 1, None, None, mean, var, True, num_batches_tracked=counter)
    z.square().sum().backward()
    assert counter == 2
    other = x.detach().clone().requires_grad_()
    torch_y = torch.nn.functional.batch_norm(other, expected_mean, expected_var, training=True)
    torch.nn.functional.batch_norm(torch_y * 2 + 1, expected_mean, expected_var, training=True)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(var, expected_var)


@MODE
def test_retain_graph_gives_the_same_gradient_again(device, training):
    x = random((5, 3, 4), device=device).requires_grad_()
    loss = batch_norm(x, None, None, *state(device)[:2], training).square().sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, x)[0])


@pytest.mark.works_with("version counters, saved tensors")
def test_saved_tensor_hooks_see_what_backward_keeps(device):
    """The input, the weight and two vectors: nothing of the size of the output."""
    kept = []
    x = random((5, 3, 4), device=device).requires_grad_()
    weight, bias = (p.requires_grad_() for p in parameters(3, device=device))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        batch_norm(x, weight, bias, *state(device)[:2], True)
    assert sorted(t.numel() for t in kept) == [3, 3, 3, 60]
    assert next(t for t in kept if t.numel() == 60).data_ptr() == x.data_ptr()
