"""What people do with models around torch.nn.BatchNorm*d works alike with the operator."""

import contextlib
import copy
import io
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from torch.utils.checkpoint import checkpoint

from helpers import LAYOUT, MODE, batch_norm, in_layout, parameters, random, statistics
from models import BatchNorm, Net, replace_batch_norm
from reference import Normalization


def pair():
    """A net on the operator, and torch's with the same parameters and statistics."""
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
                                 torch.nn.Conv2d(8, 4, 3), torch.nn.BatchNorm2d(4)).double()
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
    ours = copy.deepcopy(theirs)
    assert replace_batch_norm(ours) == 2
    return ours, theirs


def batch(seed=0, *, requires_grad=False):
    return random((4, 3, 8, 8), torch.float64, seed=seed).requires_grad_(requires_grad)


def state(model):
    """Parameters, their gradients and the buffers, by name."""
    gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters()}
    return {**model.state_dict(), **gradients}


def assert_same(ours, theirs):
    torch.testing.assert_close(state(ours), state(theirs))


@contextlib.contextmanager
def unchanged(*buffers):
    """The recipe of the README: puts the buffers back when the block is left."""
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)


# Checkpointing runs a forward pass twice, and a training one updates the statistics each time.


@pytest.mark.works_with("torch.utils.checkpoint")
@pytest.mark.parametrize("reentrant", [False, True], ids=["nonreentrant", "reentrant"])
def test_checkpointing_updates_twice_as_with_torchs_layer(reentrant):
    for training in (True, False):
        ours, theirs = (model.train(training) for model in pair())
        for model in (ours, theirs):
            checkpoint(model, batch(requires_grad=True), use_reentrant=reentrant).sin().sum().backward()
        assert_same(ours, theirs)
        assert ours[1].num_batches_tracked == 2 * training


@pytest.mark.works_with("torch.utils.checkpoint")
def test_checkpointing_with_the_recipe_updates_once():
    ours, theirs = pair()
    context = lambda: (contextlib.nullcontext(), unchanged(*ours.buffers()))
    x = batch(requires_grad=True)
    checkpoint(ours, x, use_reentrant=False, context_fn=context).sin().sum().backward()
    other = batch(requires_grad=True)
    theirs(other).sin().sum().backward()
    assert_same(ours, theirs)
    torch.testing.assert_close(x.grad, other.grad)
    assert ours[1].num_batches_tracked == 1


@pytest.mark.works_with("several forward passes before one backward")
def test_a_discriminator_sees_two_batches_before_one_backward():
    ours, theirs = pair()
    for model in (ours, theirs):
        real, fake = batch(1), batch(2, requires_grad=True)
        (model(real).sigmoid().sum() - model(fake).sigmoid().square().sum()).backward()
        model.fake = fake
    assert_same(ours, theirs)
    torch.testing.assert_close(ours.fake.grad, theirs.fake.grad)


@pytest.mark.works_with("gradient penalties")
def test_a_gradient_penalty_needs_second_derivatives():
    ours, theirs = pair()
    for model in (ours, theirs):
        x = batch(requires_grad=True)
        slope = torch.autograd.grad(model(x).sin().sum(), x, create_graph=True)[0]
        (slope.square().sum((1, 2, 3)).sqrt() - 1).square().sum().backward()
    assert_same(ours, theirs)


@pytest.mark.works_with("torch.optim.swa_utils")
def test_averaged_models_and_their_statistics():
    for function in (None, get_ema_multi_avg_fn(0.9)):
        results = []
        for model in pair():
            average = AveragedModel(model, multi_avg_fn=function)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(3):
                optimizer.zero_grad()
                model(batch(step)).sin().sum().backward()
                optimizer.step()
                average.update_parameters(model)
            update_bn([batch(s) for s in range(4)], average)
            results.append(average)
        torch.testing.assert_close(*(average.state_dict() for average in results))
        assert results[0].module[1].num_batches_tracked == 4


@pytest.mark.works_with("copy.deepcopy, pickle, torch.save")
def test_copies_are_independent_and_whole():
    net = Net()
    net(random((4, 3, 6, 6)))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)),
              torch.load(file, weights_only=False)]
    fresh = Net()
    fresh.load_state_dict(net.state_dict())
    x = random((4, 3, 6, 6), seed=1)
    before = copy.deepcopy(net.state_dict())
    results = [(c(x), c.norm.running_var, c.norm.num_batches_tracked) for c in (*copies, fresh)]
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    expected = (net(x), net.norm.running_var, net.norm.num_batches_tracked)
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


@pytest.mark.works_with("torch.nn.utils.fusion")
def test_folding_into_the_convolution_before_it():
    ours, _ = pair()
    for step in range(3):
        ours(batch(step))
    ours.eval()
    folded = torch.nn.Sequential(torch.nn.utils.fuse_conv_bn_eval(ours[0], ours[1]), ours[2],
                                 torch.nn.utils.fuse_conv_bn_eval(ours[3], ours[4]))
    torch.testing.assert_close(folded(batch(9)), ours(batch(9)))


@pytest.mark.works_with("torch.autocast")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16],
                         ids=lambda dtype: str(dtype).removeprefix("torch."))
@LAYOUT
def test_autocast_leaves_the_types_alone(device, layout, dtype):
    convolution = torch.nn.Conv2d(3, 8, 3, device=device)
    weight, bias = (p.requires_grad_() for p in parameters(8, device=device))
    mean, var = statistics(8, device=device)
    x = in_layout(random((2, 3, 6, 6), device=device), layout)
    for training in (True, False):
        given = {} if training else dict(mean=mean.clone(), var=var.clone())
        with torch.autocast(device, dtype=dtype):
            hidden = convolution(x)
            output = batch_norm(hidden, weight, bias, mean, var, training)
            single = batch_norm(x, None, None, training=True)
        assert hidden.dtype == output.dtype == dtype
        assert single.dtype == mean.dtype == var.dtype == torch.float32
        assert output.stride() == hidden.stride()
        Normalization(hidden, weight, bias, **given).output().check("output", output)
        weight.grad = bias.grad = None
        output.float().square().sum().backward()
        assert weight.grad.dtype == bias.grad.dtype == torch.float32
        assert convolution.weight.grad.dtype == torch.float32


@pytest.mark.works_with("torch.use_deterministic_algorithms")
@pytest.mark.parametrize("fill", [True, False], ids=["filled", "unfilled"])
@MODE
def test_deterministic_algorithms_change_no_bit(device, training, fill):
    """Memory that is handed out is filled with NaN first: nothing is read that was not written."""

    def compute():
        module = BatchNorm(3).to(device).train(training)
        results = []
        for layout in ("contiguous", "channels_last", "permuted"):
            x = in_layout(random((4, 3, 5, 6), device=device), layout).requires_grad_()
            output = module(x)
            gradients = torch.autograd.grad(output.square().sum(), (x, *module.parameters()))
            results += [output, *gradients, *(b.clone() for b in module.buffers())]
        return results

    expected = compute()
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = fill
        found = compute()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
