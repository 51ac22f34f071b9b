"""Derivatives of every kind against finite differences, and against torch.func's transforms of the
plain formula."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from helpers import MODE, batch_norm, in_layout, parameters, random, statistics

AFFINE = pytest.mark.parametrize("has_weight, has_bias", list(itertools.product([True, False],
                                                                               repeat=2)),
                                 ids=["affine", "weight", "bias", "plain"])
DOUBLE = torch.float64


def problem(shape, training, has_weight, has_bias, device="cpu", layout="contiguous"):
    """A function of (input, [weight], [bias]) and its arguments."""
    x = in_layout(random(shape, DOUBLE, device, std=2), layout).requires_grad_()
    weight, bias = parameters(shape[1], DOUBLE, device)
    mean, var = (None, None) if training else statistics(shape[1], DOUBLE, device)
    leaves = [t.requires_grad_() for t, has in ((weight, has_weight), (bias, has_bias)) if has]

    def function(x, *affine):
        affine = iter(affine)
        w = next(affine) if has_weight else None
        b = next(affine) if has_bias else None
        return batch_norm(x, w, b, mean, var, training, 0.1, 1e-3)

    return function, (x, *leaves)


def formula(x, weight=None, bias=None, mean=None, var=None, training=True, eps=1e-5):
    """Batch normalization in operators whose derivatives are not in question."""
    axes = [0, *range(2, x.dim())]
    shape = [1, -1] + [1] * (x.dim() - 2)
    if training:
        mean = x.mean(axes)
        var = (x - mean.view(shape)).square().mean(axes)
    y = (x - mean.view(shape)) / (var + eps).sqrt().view(shape)
    if weight is not None:
        y = y * weight.view(shape)
    return y if bias is None else y + bias.view(shape)


@pytest.mark.works_with("double backward")
@MODE
@AFFINE
@pytest.mark.parametrize("shape", [(4, 2), (3, 2, 3), (2, 2, 2, 2)], ids=lambda s: f"rank{len(s)}")
def test_gradcheck(device, shape, training, has_weight, has_bias):
    function, arguments = problem(shape, training, has_weight, has_bias, device)
    assert gradcheck(function, arguments, check_forward_ad=True, check_undefined_grad=True,
                     check_batched_grad=True, check_batched_forward_grad=True)


@pytest.mark.works_with("double backward")
@MODE
@AFFINE
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_gradgradcheck(device, training, has_weight, has_bias, layout):
    function, arguments = problem((3, 2, 1, 2), training, has_weight, has_bias, device, layout)
    assert gradgradcheck(function, arguments, check_undefined_grad=True, check_batched_grad=True)


@pytest.mark.works_with("double backward")
@MODE
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2), (4, 3, 0)], ids=str)
def test_an_empty_batch_has_zero_derivatives(device, training, shape):
    function, leaves = problem(shape, training, True, True, device)
    output = function(*leaves)
    gradient, = torch.autograd.grad(output.sum(), leaves[0], create_graph=True)
    (gradient.square().sum() + output.sum()).backward()
    for leaf in leaves:
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


@pytest.mark.works_with("double backward")
@MODE
def test_third_derivatives(device, training):
    """gradgradcheck of a function that is a gradient already."""
    function, arguments = problem((2, 2, 2), training, True, True, device)

    def gradient(*arguments):
        return torch.autograd.grad(function(*arguments).sin().sum(), arguments, create_graph=True)

    assert gradgradcheck(gradient, arguments)


@MODE
def test_gradcheck_with_running_statistics(device, training):
    x = random((3, 2, 3), DOUBLE, device).requires_grad_()
    weight, bias = (p.requires_grad_() for p in parameters(2, DOUBLE, device))
    mean, var = statistics(2, DOUBLE, device)

    def function(x, weight, bias):
        return batch_norm(x, weight, bias, mean.clone(), var.clone(), training)

    assert gradcheck(function, (x, weight, bias), check_forward_ad=True)
    assert gradgradcheck(function, (x, weight, bias))


@MODE
@pytest.mark.parametrize("needs", [n for n in itertools.product([0, 1], repeat=3) if any(n)],
                         ids=lambda n: "".join(map(str, n)))
def test_any_subset_of_gradients(device, training, needs):
    arguments = [random((4, 3, 5), device=device), *parameters(3, device=device)]
    mean, var = statistics(3, device=device)
    dy = random((4, 3, 5), device=device, seed=8)
    given = [t.clone().requires_grad_(bool(n)) for t, n in zip(arguments, needs, strict=True)]
    batch_norm(*given, mean.clone(), var.clone(), training).backward(dy)
    everything = [t.clone().requires_grad_() for t in arguments]
    batch_norm(*everything, mean.clone(), var.clone(), training).backward(dy)
    for tensor, complete, needed in zip(given, everything, needs, strict=True):
        if needed:
            assert torch.equal(tensor.grad, complete.grad)
        else:
            assert tensor.grad is None


# torch.func. Each function takes (f, x, v) and returns tensors that f's derivatives determine.
TRANSFORMS = {
    "grad": lambda f, x, v: torch.func.grad(lambda x: (f(x) * v).sum())(x),
    "vjp": lambda f, x, v: torch.func.vjp(f, x)[1](v)[0],
    "jvp": lambda f, x, v: torch.func.jvp(f, (x,), (v,)),
    "jacrev": lambda f, x, v: torch.func.jacrev(f)(x),
    "jacfwd": lambda f, x, v: torch.func.jacfwd(f)(x),
    "hessian": lambda f, x, v: torch.func.hessian(lambda x: (f(x).sin() * v).sum())(x),
    "grad_of_grad": lambda f, x, v: torch.func.grad(
        lambda x: torch.func.grad(lambda x: (f(x).sin() * v).sum())(x).square().sum())(x),
    "jvp_of_jvp": lambda f, x, v: torch.func.jvp(
        lambda x: torch.func.jvp(f, (x,), (v,))[1], (x,), (v.cos(),)),
    "jvp_of_grad": lambda f, x, v: torch.func.jvp(
        torch.func.grad(lambda x: (f(x).sin() * v).sum()), (x,), (v,)),
    "vmap": lambda f, x, v: torch.func.vmap(f)(torch.stack([x, v, x * v])),
    "vmap_of_grad": lambda f, x, v: torch.func.vmap(
        torch.func.grad(lambda x: (f(x) * v).sum()))(torch.stack([x, v])),
    "vmap_last_axis": lambda f, x, v: torch.func.vmap(f, in_dims=-1, out_dims=1)(
        torch.stack([x, v], -1)),
}


@pytest.mark.works_with("torch.func: grad, vjp, jvp, jacrev, jacfwd, hessian, vmap")
@MODE
@pytest.mark.parametrize("of", ["input", "weight", "bias"])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_equal_those_of_the_formula(device, transform, training, of):
    shape = (3, 2, 2)
    arguments = {"input": random(shape, DOUBLE, device),
                 **dict(zip(("weight", "bias"), parameters(2, DOUBLE, device), strict=True))}
    mean, var = (None, None) if training else statistics(2, DOUBLE, device)

    def through(operation):
        def function(value):
            given = {**arguments, of: value}
            return operation(given["input"], given["weight"], given["bias"], mean, var,
                             training=training)
        v = random(arguments[of].shape, DOUBLE, device, seed=11)
        if transform == "vjp":
            v = random(shape, DOUBLE, device, seed=11)
        return TRANSFORMS[transform](function, arguments[of], v)

    torch.testing.assert_close(through(batch_norm), through(formula), rtol=1e-9, atol=1e-9)


@pytest.mark.works_with("torch.func: grad, vjp, jvp, jacrev, jacfwd, hessian, vmap")
@MODE
@pytest.mark.parametrize("layout", ["channels_last", "permuted"])
def test_the_gradient_under_a_transform_lies_as_the_input_does(device, training, layout):
    function, (x, weight) = problem((4, 3, 5, 2), training, True, False, device, layout)
    gradient = torch.func.grad(lambda x: function(x, weight).sum())(x.detach())
    assert gradient.stride() == x.stride()


@MODE
def test_saved_statistics_are_constants_under_a_transform_too(device, training):
    x = random((4, 3), DOUBLE, device)
    mean, var = statistics(3, DOUBLE, device)

    def loss(x):
        if training:
            results = torch.ops.torchbn.batch_norm_train(x, None, None, None, None, None, 0.1, 1e-5)
        else:
            results = torch.ops.torchbn.batch_norm_inference(x, None, None, mean, var, 1e-5)
        return sum(result.pow(3).sum() for result in results)

    leaf = x.clone().requires_grad_()
    expected, = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected, rtol=1e-12, atol=1e-12)


def test_evaluation_saves_copies_of_float64_statistics(device):
    x = random((4, 3), DOUBLE, device)
    mean, var = statistics(3, DOUBLE, device)
    with forward_ad.dual_level():
        _, saved, _ = torch.ops.torchbn.batch_norm_inference(forward_ad.make_dual(x, x), None, None,
                                                             mean, var, 1e-5)
    assert saved.data_ptr() != mean.data_ptr()


@MODE
@pytest.mark.parametrize("create_graph", [False, True], ids=["first_order", "create_graph"])
@pytest.mark.parametrize("has_weight", [False, True], ids=["plain", "frozen weight"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
def test_many_gradients_at_once(device, training, create_graph, has_weight, layout):
    """Also where evaluation keeps no input, but the memory format that its gradient is to have."""
    function, leaves = problem((4, 3, 5, 2), training, has_weight, False, device, layout)
    x = leaves[0]
    output = function(x, *(t.detach() for t in leaves[1:]))
    batch = random((7, *x.shape), DOUBLE, device, seed=3)
    found, = torch.autograd.grad(output, x, batch, is_grads_batched=True, retain_graph=True,
                                 create_graph=create_graph)
    expected = torch.stack([torch.autograd.grad(output, x, dy, retain_graph=True)[0] for dy in batch])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.works_with("torch.func: grad, vjp, jvp, jacrev, jacfwd, hessian, vmap")
def test_vmap_over_models(device):
    """Each model of an ensemble has its own parameters and running statistics."""
    x = random((3, 4, 2, 5), device=device)
    weight, bias, mean, var = (torch.stack([t, t * 2, t * 3]) for t in
                               (*parameters(2, device=device), *statistics(2, device=device)))
    outputs = torch.func.vmap(batch_norm)(x, weight, bias, mean, var)
    for output, *one in zip(outputs, x, weight, bias, mean, var, strict=True):
        torch.testing.assert_close(output, batch_norm(*one))


@pytest.mark.works_with("torch.func: grad, vjp, jvp, jacrev, jacfwd, hessian, vmap")
def test_training_with_running_statistics_under_a_transform_names_the_remedy(device):
    x = random((4, 3), device=device)
    mean, var = statistics(3, device=device)
    before = mean.clone(), var.clone()
    counter = torch.tensor(0, device=device)

    def loss(x):
        return batch_norm(x, None, None, mean, var, True, num_batches_tracked=counter).sum()

    for transform, argument in ((torch.func.grad, x), (torch.func.jacfwd, x),
                                (torch.func.vmap, x.expand(2, 4, 3))):
        with pytest.raises(RuntimeError, match="track_running_stats=False.*training=False"):
            transform(loss)(argument)
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1]) and counter == 0


@pytest.mark.works_with("forward-mode differentiation")
@MODE
def test_forward_mode_tangents(device, training):
    x, v = random((4, 3, 5), DOUBLE, device), random((4, 3, 5), DOUBLE, device, seed=1)
    weight, bias = parameters(3, DOUBLE, device)
    mean, var = statistics(3, DOUBLE, device)
    results = []
    for operation in (batch_norm, formula):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, v)
            output = operation(dual, weight, bias, mean.clone(), var.clone(), training=training)
            results.append(tuple(forward_ad.unpack_dual(output)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.works_with("forward-mode differentiation")
@MODE
@pytest.mark.parametrize("create_graph", [False, True], ids=["first_order", "create_graph"])
def test_forward_over_reverse_with_a_tangent_that_only_the_gradient_has(device, training,
                                                                        create_graph):
    weight, bias = (p.requires_grad_() for p in parameters(3, DOUBLE, device))
    mean, var = statistics(3, DOUBLE, device)
    factor = random((3,), DOUBLE, device, seed=2)
    tangents = []
    for operation in (batch_norm, formula):
        x = random((4, 3), DOUBLE, device).requires_grad_()
        leaves = (x, weight, bias)
        with forward_ad.dual_level():
            later = forward_ad.make_dual(factor, factor.cos())
            y = operation(x, weight, bias, mean.clone(), var.clone(), training=training)
            gradients = torch.autograd.grad(((y + x * x) * later).sin().sum(), leaves,
                                            create_graph=create_graph)
            tangents.append([forward_ad.unpack_dual(g).tangent.detach() for g in gradients])
    torch.testing.assert_close(*tangents, rtol=1e-10, atol=1e-10)


@pytest.mark.works_with("torch.func: grad, vjp, jvp, jacrev, jacfwd, hessian, vmap")
@MODE
def test_a_transform_of_a_backward_pass_that_was_recorded_outside(device, training):
    v, t = (random((4, 3), DOUBLE, device, seed=seed) for seed in (1, 2))
    results = []
    for operation in (batch_norm, formula):
        x = random((4, 3), DOUBLE, device).requires_grad_()
        y = operation(x, None, None, *statistics(3, DOUBLE, device), training=training)
        results.append(torch.func.jvp(
            lambda dy: torch.autograd.grad(y, x, dy, retain_graph=True)[0], (v,), (t,)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


@pytest.mark.works_with("forward-mode differentiation")
def test_forward_mode_training_updates_the_statistics_too(device):
    x = random((4, 3, 5), device=device)
    updated = []
    for dual in (True, False):
        mean, var = statistics(3, device=device)
        mean[0] = float("inf")
        counter = torch.tensor(1, device=device)
        with forward_ad.dual_level():
            given = forward_ad.make_dual(x, x.cos()) if dual else x
            batch_norm(given, None, None, mean, var, True, None, num_batches_tracked=counter)
        updated.append((mean, var, counter))
    torch.testing.assert_close(updated[0], updated[1])


@pytest.mark.works_with("forward-mode differentiation")
@MODE
def test_a_tangent_on_a_running_statistic_is_refused(device, training):
    mean, var = statistics(3, device=device)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(mean, torch.ones_like(mean))
        with pytest.raises(RuntimeError, match="running_mean.*tangent"):
            batch_norm(random((4, 3), device=device), None, None, dual, var, training)


@pytest.mark.works_with("double backward")
def test_differentiating_the_backward_operator_itself_raises(device):
    x = random((4, 3), device=device).requires_grad_()
    saved = torch.ones(3, dtype=DOUBLE, device=device)
    gradient = torch.ops.torchbn.batch_norm_backward(x, x, None, saved, saved, True, True, False,
                                                     False)[0]
    with pytest.raises(RuntimeError, match="not implemented"):
        gradient.sum().backward()


@MODE
@pytest.mark.parametrize("shape", ((6, 3), (2, 3, 5)))
def test_the_gradient_of_bias_alone_needs_no_input(device, training, shape):
    dy = random(shape, device=device)
    saved = torch.ones(3, dtype=DOUBLE, device=device)
    _, _, grad_bias = torch.ops.torchbn.batch_norm_backward(
        dy, None, None, saved, saved, training, False, False, True)
    torch.testing.assert_close(grad_bias, dy.sum([d for d in range(dy.dim()) if d != 1]))
