"""torch.compile and torch.export give what eager gives, buffers included."""

import copy
import shutil

import pytest
import torch
import torch._inductor.config

from helpers import batch_norm, in_layout, random
from models import BatchNorm, Net

MOMENTUM = pytest.mark.parametrize("momentum", [0.1, None], ids=["momentum0.1", "cumulative"])


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


@MOMENTUM
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_aot_eager_equals_eager(device, momentum, layout, dynamic):
    eager = Net(momentum).to(device)
    compiled = torch.compile(copy.deepcopy(eager), backend="aot_eager", fullgraph=True,
                             dynamic=dynamic)
    assert_same_training(eager, compiled, device, layout=layout,
                         batches=(4, 7, 5) if dynamic else (4,))
    assert eager.norm.num_batches_tracked == 3


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None,
                    reason="Inductor needs a C++ compiler")
def test_inductor_equals_eager(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    # Precompiling torch's headers takes longer than the two kernels here.
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)
    eager = torch.nn.Sequential(BatchNorm(3), torch.nn.ReLU())
    compiled = torch.compile(copy.deepcopy(eager), fullgraph=True)
    for step in range(2):
        results = []
        for model in (eager, compiled):
            x = random((4, 3, 6, 6), seed=step).requires_grad_()
            output = model(x)
            output.square().sum().backward()
            results.append([output, x.grad, *model.buffers()])
        torch.testing.assert_close(results[0], results[1])
    assert eager[0].num_batches_tracked == 2


def test_changing_batch_sizes_compile_no_more_often_than_with_torchs_layer():
    def graphs_of(net):
        graphs = []

        def backend(graph, _):
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(net, backend=backend, fullgraph=True, dynamic=True)
        for batch in (3, 4, 9):
            compiled(random((batch, 3, 6, 6)))
        assert net.norm.num_batches_tracked == 3
        return len(graphs)

    theirs = Net()
    theirs.norm = torch.nn.BatchNorm2d(8)
    assert graphs_of(Net()) <= graphs_of(theirs)


def test_errors_survive_compilation():
    @torch.compile(backend="aot_eager")
    def function(x, weight):
        return batch_norm(x, weight, None, training=True)

    with pytest.raises(Exception, match="weight must have one value per channel"):
        function(random((4, 3)), torch.ones(2))


@pytest.mark.parametrize("strict", [False, True], ids=["nonstrict", "strict"])
def test_export_in_evaluation_is_pure(strict):
    net = Net().eval()
    x = random((4, 3, 6, 6))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (x,), strict=strict, dynamic_shapes={"x": {0: batch}})
    program = program.run_decompositions()
    names = [str(node.target) for node in program.graph.nodes if "torchbn" in str(node.target)]
    assert names == ["torchbn.batch_norm_inference.default"]
    assert not program.graph_signature.buffers_to_mutate
    for size in (1, 4, 9):
        x = random((size, 3, 6, 6), seed=size)
        torch.testing.assert_close(program.module()(x), net(x))


def test_export_in_training_updates_the_buffers():
    net = Net().train()
    x = random((4, 3, 6, 6))
    # The exported program shares its buffers with the module it was made from.
    program = torch.export.export(copy.deepcopy(net), (x,))
    exported = program.module()
    for step in range(3):
        x = random((4, 3, 6, 6), seed=step)
        torch.testing.assert_close(exported(x), net(x))
    torch.testing.assert_close(dict(exported.named_buffers()), dict(net.named_buffers()))
    assert exported.norm.num_batches_tracked == 3
    decomposed = program.run_decompositions()
    mutated = set(decomposed.graph_signature.buffers_to_mutate.values())
    assert mutated == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}


def test_an_exported_program_survives_saving(tmp_path):
    net = Net().eval()
    x = random((4, 3, 6, 6))
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "net.pt2")
    torch.testing.assert_close(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))


def test_functionalize_keeps_the_updates():
    """Either the buffers end as in eager or the transform says that it can't."""
    x, mean, var = random((4, 3)), torch.zeros(3), torch.ones(3)
    expected = [mean.clone(), var.clone()]
    output = batch_norm(x, None, None, *expected, True)
    try:
        found = torch.func.functionalize(lambda *a: batch_norm(*a, True))(x, None, None, mean, var)
    except RuntimeError as error:
        assert "torchbn" in str(error) or "batch_norm" in str(error)
        assert torch.equal(mean, torch.zeros(3)) and torch.equal(var, torch.ones(3))
    else:
        torch.testing.assert_close([found, mean, var], [output, *expected])
