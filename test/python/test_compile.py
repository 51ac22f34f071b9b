"""torch.compile gives what eager gives, buffers included, and compiles no more than it must."""

import copy
import re

import pytest
import torch
import torch._dynamo.compiled_autograd
import torch._inductor.config
from torch._inductor.utils import run_and_get_code

from helpers import (INDUCTOR, LAYOUT, MODE, MOMENTUM, batch_norm, in_layout, name_of,
                     needs_real_gpu, random)
from models import BatchNorm, Net


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same_training(eager, other, device, *, steps=3, layout="contiguous", batches=(4,)):
    """A few training steps and an evaluation; outputs, gradients and buffers agree."""
    for step in range(steps):
        x = in_layout(random((batches[step % len(batches)], 3, 6, 6), device=device, seed=step),
                      layout)
        results = []
        for model in (eager, other):
            model.train()
            model.zero_grad()
            given = x.clone().requires_grad_()
            output = model(given)
            output.square().sum().backward()
            results.append([output, given.grad, *(p.grad for p in model.parameters()),
                            *model.buffers()])
        torch.testing.assert_close(results[0], results[1])
    eager.eval()
    other.eval()
    torch.testing.assert_close(eager(x), other(x))


@pytest.mark.works_with("torch.compile")
@MOMENTUM
@LAYOUT
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_aot_eager_equals_eager(device, momentum, layout, dynamic):
    eager = Net(momentum).to(device)
    compiled = torch.compile(copy.deepcopy(eager), backend="aot_eager", fullgraph=True,
                             dynamic=dynamic)
    assert_same_training(eager, compiled, device, layout=layout,
                         batches=(4, 7, 5) if dynamic else (4,))
    assert eager.norm.num_batches_tracked == 3


@pytest.mark.works_with("torch.compile")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name_of)
@LAYOUT
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=INDUCTOR)])
def test_compiled_half_types_equal_eager(device, dtype, layout, backend, tmp_path, monkeypatch):
    """With float32 parameters, as mixed precision has them: the same kernels, so the same bits."""
    if backend == "inductor":
        needs_real_gpu(device)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager = torch.nn.Sequential(BatchNorm(5), torch.nn.ReLU()).to(device)
    compiled = torch.compile(copy.deepcopy(eager), backend=backend, fullgraph=True)
    x = in_layout(random((4, 5, 6, 7), dtype, device), layout)
    results = []
    for model in (eager, compiled):
        given = x.clone().requires_grad_()
        with torch._inductor.config.patch(cpp_cache_precompile_headers=False):
            output = model(given)
            output.float().square().sum().backward()
        assert output.stride() == x.stride() and given.grad.stride() == x.stride()
        results.append([output, given.grad, *(p.grad for p in model.parameters()),
                        *model.buffers()])
    for mine, other in zip(*results, strict=True):
        assert mine.dtype == other.dtype and torch.equal(mine, other)


def code_of(source):
    """The part of Inductor's output that runs, without the arguments that it makes up to time it."""
    return source[source.index("def call("):source.index("def get_args")]


@pytest.mark.works_with("torch.compile")
@INDUCTOR
def test_inductor_equals_eager_and_copies_no_buffer(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    eager = torch.nn.Sequential(BatchNorm(3), torch.nn.ReLU())
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, dynamic=True)

    def step(model, x):
        x = x.clone().requires_grad_()
        output = model(x)
        output.square().sum().backward()
        return [output, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]

    x = random((4, 3, 6, 7))  # sizes that are equal would be taken for one
    # Precompiling torch's headers takes longer than the two kernels here.
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):
        found, sources = run_and_get_code(step, compiled, x)
    torch.testing.assert_close(found, step(eager, x))
    for shape in ((7, 3, 5, 8), (2, 3, 9, 4)):
        with torch.compiler.set_stance("fail_on_recompile"):
            x = random(shape, seed=shape[0])
            torch.testing.assert_close(step(compiled, x), step(eager, x))
    assert eager[0].num_batches_tracked == 3

    forward, backward = map(code_of, sources)
    assert re.search(r"batch_norm_train\.default\(primals_\d+(, primals_\d+){5}, 0\.1, 1e-05\)",
                     forward), "the operator does not get the buffers themselves"
    assert "batch_norm_backward.default(" in backward
    for word in ("clone", "copy_", "auto_functionalized"):
        assert word not in forward + backward


def count_graphs(net, shapes, **options):
    """How often a compiler is called while inputs of these shapes come by."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(net, backend=backend, fullgraph=True, **options)
    for shape in shapes:
        compiled(random(shape))
    assert net.norm.num_batches_tracked == len(shapes)
    return len(graphs)


@pytest.mark.works_with("torch.compile")
@pytest.mark.parametrize("dynamic", [True, None], ids=["dynamic", "automatic"])
def test_after_the_second_size_nothing_is_compiled_again(dynamic):
    shapes = [(3, 3, 6, 6), (4, 3, 8, 9), (9, 3, 5, 7), (2, 3, 12, 6)]
    theirs = Net()
    theirs.norm = torch.nn.BatchNorm2d(8)
    graphs = count_graphs(Net(), shapes, dynamic=dynamic)
    assert graphs <= count_graphs(theirs, shapes, dynamic=dynamic)
    assert graphs == count_graphs(Net(), shapes[:2], dynamic=dynamic)


@pytest.mark.works_with("compiled autograd")
@MODE
def test_compiled_autograd_equals_autograd(training):
    """A whole backward pass, twice accumulated, as one compiled graph."""
    plain = Net().train(training)
    compiled = copy.deepcopy(plain)
    x = random((4, 3, 6, 6))
    for net in (plain, compiled):
        inputs = [x.clone().requires_grad_(), x.square().requires_grad_()]
        for given in inputs:
            loss = net(given).square().sum()
            if net is plain:
                loss.backward()
            else:
                with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager")):
                    loss.backward()
        net.input_gradients = [given.grad for given in inputs]
    torch.testing.assert_close(compiled.input_gradients, plain.input_gradients)
    torch.testing.assert_close([p.grad for p in compiled.parameters()],
                               [p.grad for p in plain.parameters()])


@pytest.mark.works_with("torch.compiler.nested_compile_region")
def test_a_region_that_is_compiled_once_evaluates_as_often_as_it_is_called():
    """Training in it fails for torch.nn.BatchNorm2d as well: regions must not mutate their inputs."""
    net = Net().eval()
    region = torch.compiler.nested_compile_region(net)

    def function(x):
        return region(x) + region(x * 2)

    x = random((4, 3, 6, 6)).requires_grad_()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    results = []
    for f in (compiled, lambda x: net(x) + net(x * 2)):
        output = f(x)
        results.append((output, *torch.autograd.grad(output.square().sum(),
                                                     (x, *net.parameters()))))
    torch.testing.assert_close(*results)


@pytest.mark.works_with("torch.compile")
def test_errors_survive_compilation():
    @torch.compile(backend="aot_eager")
    def function(x, weight):
        return batch_norm(x, weight, None, training=True)

    with pytest.raises(Exception, match="weight must have one value per channel"):
        function(random((4, 3)), torch.ones(2))
