"""TorchScript: script, trace, save, load, run, freeze, optimize."""

import copy

import pytest
import torch

import torchbn
from helpers import MOMENTUM, check_library_is_missed, random, run_python
from models import BatchNorm, Net

pytestmark = [pytest.mark.works_with("TorchScript"),
              pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
              pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")]
TRACE = pytest.mark.parametrize("trace", [False, True], ids=["scripted", "traced"])


@MOMENTUM
def test_a_scripted_module_is_the_module(device, momentum):
    module = BatchNorm(3, momentum).to(device)
    scripted = torch.jit.script(copy.deepcopy(module))
    for step in range(12):
        x = random((4, 3, 5), device=device, seed=step)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [m(i) for m, i in zip((module, scripted), inputs, strict=True)]
        for output in outputs:
            output.square().sum().backward()
        assert torch.equal(*outputs) and torch.equal(inputs[0].grad, inputs[1].grad)
    assert scripted.num_batches_tracked == 12
    for a, b in zip(module.buffers(), scripted.buffers(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(module.weight.grad, scripted.weight.grad)
    module.eval()
    scripted.eval()
    assert torch.equal(module(x), scripted(x)) and scripted.num_batches_tracked == 12


def test_a_saved_module_runs_in_another_process(tmp_path):
    net = Net()
    net(random((4, 3, 6, 6)))
    net.eval()
    torch.jit.script(net).save(tmp_path / "net.pt")
    x = random((4, 3, 6, 6), seed=1)
    torch.save((x, net(x)), tmp_path / "expected.pt")
    result = run_python(f"""
import torch, helpers
helpers.load_library()
net = torch.jit.load({str(tmp_path / "net.pt")!r})
x, expected = torch.load({str(tmp_path / "expected.pt")!r})
torch.testing.assert_close(net(x), expected)
assert net.norm.num_batches_tracked == 1
net.train()(x)
assert net.norm.num_batches_tracked == 2
print("same")
""")
    assert result.returncode == 0 and result.stdout == "same\n", result.stderr


def test_a_file_without_the_library_names_the_operator(tmp_path):
    path = str(tmp_path / "net.pt")
    torch.jit.script(Net()).save(path)
    check_library_is_missed(f"torch.jit.load({path!r})",
                            "Unknown builtin op: torchbn::batch_norm")


def test_freezing_in_evaluation_changes_nothing(device):
    """The public operator may mutate its buffers, so that a scripted module keeps them as attributes;
    all else folds."""
    net = Net().to(device)
    net(random((4, 3, 6, 6), device=device))
    net.eval()
    frozen = torch.jit.freeze(torch.jit.script(net))
    x = random((4, 3, 6, 6), device=device, seed=1)
    for _ in range(3):
        torch.testing.assert_close(frozen(x), net(x))
    assert "torchbn::batch_norm" in str(frozen.graph)
    attributes = {node.s("name") for node in frozen.graph.findAllNodes("prim::GetAttr")}
    assert attributes <= {"norm", "running_mean", "running_var", "num_batches_tracked"}


@TRACE
def test_freezing_the_evaluation_that_mutates_nothing_leaves_constants(device, trace):
    """Freezing looks for updates before it drops branches that are not taken. Twice over it finds
    none in what was scripted; in what was traced there is no such branch."""
    net = Net(norm=lambda channels, _: torchbn.nn.BatchNorm2d(channels)).to(device)
    x = random((4, 3, 6, 6), device=device)
    scripted = torch.jit.script(net)
    scripted(x)
    assert net.norm.num_batches_tracked == 1
    net.eval()
    if trace:
        frozen = torch.jit.freeze(torch.jit.trace(net, x))
    else:
        frozen = torch.jit.freeze(torch.jit.freeze(scripted.eval(), preserved_attrs=["training"]))
    assert not frozen.graph.findAllNodes("prim::GetAttr")
    assert "torchbn::batch_norm_inference" in str(frozen.graph)
    x = random((2, 3, 6, 6), device=device, seed=1)
    for _ in range(3):
        torch.testing.assert_close(frozen(x), net(x))


@TRACE
def test_optimizing_for_inference_changes_nothing(device, trace):
    net = Net().to(device)
    net(random((4, 3, 6, 6), device=device))
    net.eval()
    x = random((4, 3, 6, 6), device=device, seed=1)
    optimized = torch.jit.optimize_for_inference(torch.jit.trace(net, x) if trace
                                                 else torch.jit.script(net))
    for _ in range(3):
        torch.testing.assert_close(optimized(x), net(x))
    assert net.norm.num_batches_tracked == 1


def test_tracing_in_evaluation(device):
    net = Net().to(device).eval()
    traced = torch.jit.trace(net, random((4, 3, 6, 6), device=device))
    x = random((2, 3, 6, 6), device=device, seed=1)
    torch.testing.assert_close(traced(x), net(x))
    assert net.norm.num_batches_tracked == 0


def test_a_module_traced_in_training_updates_once_per_call(device, tmp_path):
    net = Net().to(device)
    # Checking a trace runs the module some times more, as it does with torch's layer.
    traced = torch.jit.trace(net, random((4, 3, 6, 6), device=device), check_trace=False)
    assert net.norm.num_batches_tracked == 1
    traced.save(tmp_path / "net.pt")
    loaded = torch.jit.load(tmp_path / "net.pt")
    for step in range(2):
        x = random((3, 3, 6, 6), device=device, seed=step)
        torch.testing.assert_close(loaded(x), net(x))
    assert loaded.norm.num_batches_tracked == 3
    torch.testing.assert_close(dict(loaded.named_buffers()), dict(net.named_buffers()))


def test_every_argument_has_its_documented_default_in_script():
    @torch.jit.script
    def evaluate(x, mean, var):
        return torch.ops.torchbn.batch_norm(x, running_mean=mean, running_var=var)

    x, mean, var = random((4, 3)), torch.zeros(3), torch.ones(3)
    expected = torch.nn.functional.batch_norm(x, mean, var)
    torch.testing.assert_close(evaluate(x, mean, var), expected)


def test_errors_in_script_keep_their_text():
    @torch.jit.script
    def evaluate(x):
        return torch.ops.torchbn.batch_norm(x)

    with pytest.raises(RuntimeError, match="needs both, but both are None"):
        evaluate(random((4, 3)))
