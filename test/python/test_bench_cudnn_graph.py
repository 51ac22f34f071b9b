"""cuDNN's graph interface, without cuDNN or a GPU: a frontend that computes with torch takes its place."""

import sys
import types

import pytest
import torch
import torch.nn.functional as F

import cudnn_graph
import cudnn_layer

MOMENTUM, EPS = 0.25, 1e-3


class Tensor:
    def __init__(self, dim=None, stride=None, data_type=None, name=None, is_pass_by_value=False):
        self.dim, self.stride, self.data_type, self.output = dim, stride, data_type, False
        self.by_value = is_pass_by_value

    def __getattr__(self, name):
        def put(value):
            setattr(self, name.removeprefix("set_"), value)
            return self

        if not name.startswith("set_"):
            raise AttributeError(name)
        return put


class Pygraph:
    """Takes tensors as they were described, whatever shape they have, as the library does."""

    made = []

    def __init__(self, **options):
        self.options, self.steps = options, []
        self.made.append(self)

    def __getattr__(self, name):
        if name not in ("validate", "build_operation_graph", "create_execution_plans",
                        "check_support", "build_plans"):
            raise AttributeError(name)
        return lambda *_: self.steps.append(name)

    tensor = staticmethod(Tensor)

    def get_workspace_size(self):
        return 16

    def batchnorm(self, **inputs):
        self.formula, self.inputs, self.outputs = train, inputs, [Tensor() for _ in range(5)]
        return self.outputs

    def batchnorm_backward(self, **inputs):
        self.formula, self.inputs, self.outputs = gradients, inputs, [Tensor() for _ in range(3)]
        return self.outputs

    def execute(self, tensors, workspace, handle):
        assert workspace.numel() == 16 and handle == "handle" and len(self.steps) == 5
        seen = {}
        for tensor, value in tensors.items():
            assert tensor.data_type == value.dtype and (tensor.by_value or tensor.stride)
            seen[tensor] = value.as_strided(tensor.dim, tensor.stride)
        found = self.formula(**{name: seen[tensor] for name, tensor in self.inputs.items()})
        for tensor, value in zip(self.outputs, found, strict=True):
            assert tensor.output
            seen[tensor].copy_(value.view(tensor.dim))


def train(input, scale, bias, in_running_mean, in_running_var, epsilon, momentum):
    mean, var = in_running_mean.flatten().clone(), in_running_var.flatten().clone()
    y = F.batch_norm(input, mean, var, scale.flatten(), bias.flatten(), True, momentum.item(),
                     epsilon.item())
    axes = [axis for axis in range(input.dim()) if axis != 1]
    wide = input.float()
    return y, wide.mean(axes), (wide.var(axes, correction=0) + epsilon.item()).rsqrt(), mean, var


def gradients(grad, input, scale, mean, inv_variance):
    return torch.ops.aten.native_batch_norm_backward(
        grad, input, scale.flatten(), None, None, mean.flatten(), inv_variance.flatten(), True,
        EPS, [True, True, True])


@pytest.fixture
def frontend(monkeypatch):
    module = types.ModuleType("cudnn")
    module.pygraph = Pygraph
    module.data_type = types.SimpleNamespace(FLOAT=torch.float32, HALF=torch.float16,
                                             BFLOAT16=torch.bfloat16)
    module.heur_mode = types.SimpleNamespace(A=0, FALLBACK=1)
    module.streams = []
    module.set_stream = lambda handle, stream: module.streams.append((handle, stream))
    monkeypatch.setitem(sys.modules, "cudnn", module)
    monkeypatch.setattr(cudnn_graph, "handle", lambda: "handle")
    monkeypatch.setattr(cudnn_layer, "stream", lambda: 77)
    monkeypatch.setattr(Pygraph, "made", [])
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(32, 6), (4, 6, 5), (4, 6, 5, 7), (2, 6, 3, 4, 5)])
@pytest.mark.parametrize("last", [False, True])
def test_a_step_is_that_of_aten(frontend, shape, dtype, last):
    x = torch.randn(shape).to(dtype)
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    weight, bias = torch.rand(6), torch.rand(6)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    call = cudnn_graph.batch_norm(MOMENTUM, EPS)
    buffers, expected_buffers = ([torch.zeros(6), torch.ones(6)] for _ in range(2))
    for _ in range(2):
        y = call(x, *buffers, weight, bias, True)
        dy = torch.rand_like(y)
        expected = F.batch_norm(x, *expected_buffers, weight, bias, True, MOMENTUM, EPS)
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {
            "rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(y, expected, **tolerance)
        for found, right in zip(torch.autograd.grad(y, leaves, dy),
                                torch.autograd.grad(expected, leaves, dy), strict=True):
            torch.testing.assert_close(found, right, **tolerance)
    torch.testing.assert_close(buffers, expected_buffers)
    assert len(Pygraph.made) == 2, "one forward, one backward, for all calls"
    assert set(frontend.streams) == {("handle", 77)} and len(frontend.streams) == 4
    assert Pygraph.made[0].options["compute_data_type"] == torch.float32


def test_what_graphs_cannot_do_is_said(frontend):
    x, channels = torch.randn(4, 6, 5, 7), [torch.ones(6) for _ in range(4)]
    call = cudnn_graph.batch_norm(MOMENTUM, EPS)
    with pytest.raises(NotImplementedError, match="for evaluation"):
        call(x, *channels, False)
    with pytest.raises(NotImplementedError, match="do not take torch.float64"):
        call(x.double(), *channels, True)


def test_without_the_package_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cudnn", None)
    assert cudnn_graph.missing("cuda") == "the package nvidia-cudnn-frontend is not installed"
