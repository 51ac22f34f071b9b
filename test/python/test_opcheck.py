"""torch.library.opcheck on every operator: schema, fake kernels, autograd registration, AOT."""

import pytest
import torch

from helpers import MODE, MOMENTUM, in_layout, name_of, parameters, random, statistics

pytest.importorskip("expecttest", reason="opcheck needs expecttest")

pytestmark = pytest.mark.works_with("torch.library.opcheck")
OPS = torch.ops.torchbn
CASES = [pytest.param(shape, layout, dtype, id=f"{name_of(dtype)}-{layout}-rank{len(shape)}")
         for shape, layout, dtype in [
             ((4, 3), "contiguous", torch.float32),
             ((4, 3, 5), "permuted", torch.float64),
             ((2, 3, 4, 5), "channels_last", torch.float32),
             ((2, 3, 4, 5), "sliced", torch.bfloat16),
             ((2, 3, 2, 3, 4), "channels_last", torch.float16),
         ]]
ON = pytest.mark.parametrize("on", [True, False], ids=["all", "none"])


def opcheck(operator, *arguments):
    """With every one of its utilities; it leaves out one by itself. It compares compiled with eager
    results."""
    tolerance = 2e-2 if arguments[0][0].dtype in (torch.bfloat16, torch.float16) else 1e-5
    torch.library.opcheck(operator, *arguments, test_utils="ALL", rtol=tolerance, atol=tolerance)


def arguments(shape, layout, dtype, device, on, *, requires_grad=True):
    x = in_layout(random(shape, dtype, device), layout).requires_grad_(requires_grad)
    if not on:
        return x, None, None
    weight, bias = (p.requires_grad_(requires_grad) for p in parameters(3, dtype, device))
    return x, weight, bias


def buffers(dtype, device):
    return (*statistics(3, dtype, device), torch.tensor(2, device=device))


@pytest.mark.parametrize("shape, layout, dtype", CASES)
@ON
@MOMENTUM
def test_training(device, shape, layout, dtype, on, momentum):
    mean, var, counter = buffers(dtype, device) if on else (None, None, None)
    opcheck(OPS.batch_norm_train.default,
            (*arguments(shape, layout, dtype, device, on), mean, var, counter, momentum, 1e-5))


@pytest.mark.parametrize("shape, layout, dtype", CASES)
@ON
def test_inference(device, shape, layout, dtype, on):
    mean, var, _ = buffers(dtype, device)
    opcheck(OPS.batch_norm_inference.default,
            (*arguments(shape, layout, dtype, device, on), mean, var, 1e-5))


@pytest.mark.parametrize("shape, layout, dtype", CASES)
@ON
@MODE
def test_public(device, shape, layout, dtype, on, training):
    mean, var, counter = buffers(dtype, device) if on or not training else (None, None, None)
    opcheck(OPS.batch_norm.default,
            (*arguments(shape, layout, dtype, device, on), mean, var, training, 0.1, 1e-5),
            dict(num_batches_tracked=counter))


@pytest.mark.parametrize("shape, layout, dtype", CASES)
@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (False, True, False),
                                   (False, False, True)], ids=["all", "input", "weight", "bias"])
@MODE
def test_backward(device, shape, layout, dtype, needs, training):
    x, weight, _ = arguments(shape, layout, dtype, device, True, requires_grad=False)
    mean, invstd = statistics(3, torch.float64, device)
    grad_output = random(shape, dtype, device, seed=9)
    opcheck(OPS.batch_norm_backward.default,
            (grad_output, x, weight, mean, invstd, training, *needs))
    if not training and not needs[1]:
        opcheck(OPS.batch_norm_backward.default,
                (grad_output, None, None, mean, invstd, training, *needs))


@pytest.mark.parametrize("batch, channels", [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_empty_and_full(batch, channels):
    x = torch.zeros(batch, channels, 4)
    opcheck(OPS.batch_norm_train.default, (x, None, None, None, None, None, 0.1, 1e-5))


def test_every_operator_is_known_here():
    """A new operator or overload wants an opcheck of its own."""
    known = {OPS.batch_norm.default, OPS.batch_norm_train.default,
             OPS.batch_norm_inference.default, OPS.batch_norm_backward.default}
    registered = {(schema.name, schema.overload_name) for schema in torch._C._jit_get_all_schemas()
                  if schema.name.startswith("torchbn::")}
    assert registered == {(op._schema.name, op._schema.overload_name) for op in known}


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "sliced", "expanded"])
def test_fake_outputs_have_the_real_ones_strides(device, layout):
    from torch._subclasses.fake_tensor import FakeTensorMode

    x = in_layout(random((2, 3, 4, 5), device=device), layout)
    mean, var = statistics(3, device=device)
    calls = [lambda x, m, v: OPS.batch_norm_train(x, None, None, None, None, None, 0.1, 1e-5),
             lambda x, m, v: OPS.batch_norm_inference(x, None, None, m, v, 1e-5),
             lambda x, m, v: OPS.batch_norm_backward(x, x, m, m.double(), v.double(), True, True,
                                                     True, True)]
    for call in calls:
        real = call(x, mean, var)
        with FakeTensorMode() as mode:
            fake = call(*(mode.from_tensor(t) for t in (x, mean, var)))
        for r, f in zip(real, fake, strict=True):
            assert (r.shape, r.stride(), r.dtype, r.device) == (f.shape, f.stride(), f.dtype,
                                                               f.device)
