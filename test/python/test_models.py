"""Networks from torchvision on the operator: one training step and one evaluation."""

import copy
import functools

import pytest
import torch

from helpers import INDUCTOR, LAYOUT, in_layout, needs_real_gpu, random
from models import replace_batch_norm

torchvision = pytest.importorskip("torchvision")

pytestmark = pytest.mark.works_with("torchvision's models")
models = torchvision.models

# What makes it, the shape of its input, and how many batch norms it has.
MODELS = {
    "resnet18": (lambda: models.resnet18(num_classes=10), (4, 3, 48, 48), 20),
    "mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=10, dropout=0.0),
                           (4, 3, 64, 64), 34),
    "densenet": (lambda: models.DenseNet(8, (2, 2, 2), 16, num_classes=10, memory_efficient=True),
                 (4, 3, 64, 64), 16),
    "r3d_18": (lambda: models.video.r3d_18(num_classes=10), (2, 3, 4, 32, 32), 20),
    "lraspp_mobilenet_v3_large": (lambda: models.segmentation.lraspp_mobilenet_v3_large(
        num_classes=5, weights_backbone=None), (4, 3, 64, 64), 47),
}
MODES = ["eager", "compiled", "exported", "scripted"]


def make_model(name):
    torch.manual_seed(0)
    model = MODELS[name][0]()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def without_checkpoints(model):
    """Eager checkpoints update the statistics twice. Compilers and exporters, of torch's layers as
    well, record what is checkpointed once; torchvision's TorchScript knows no checkpoints."""
    for module in model.modules():
        if hasattr(module, "memory_efficient"):
            module.memory_efficient = False
    return model


def through(mode, model, x):
    """What to call instead of the model, and what then has its parameters and buffers."""
    if mode == "compiled":
        return torch.compile(model, backend="aot_eager", fullgraph=True), model
    if mode == "exported":
        exported = torch.export.export(model, (x,)).module()
        return exported, exported
    if mode == "scripted":
        return torch.jit.script(without_checkpoints(model)), model
    return model, model


def logits(output):
    return output["out"] if isinstance(output, dict) else output


def train_step(model, x, mode="eager"):
    """Output, gradients, running statistics, and the parameters after a step of SGD."""
    call, model = through(mode, model.train(), x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    output = logits(call(x))
    output.square().mean().backward()
    gradients = {f"gradient of {n}": p.grad.clone() for n, p in model.named_parameters()}
    optimizer.step()
    # Copies, because the models go on with another state.
    return {"output": output.detach(), **gradients,
            **{n: t.detach().clone() for n, t in model.state_dict().items()}}


def evaluate(model, x, mode="eager"):
    with torch.no_grad():
        return logits(through(mode, model.eval(), x)[0](x))


@functools.lru_cache(maxsize=2)
def torchs_results(name, device, layout, checkpoints):
    """The input; after a training step of torch's model and of the same in float64 all that has
    changed; the state of torch's, and what both evaluate to in that state."""
    x = in_layout(random(MODELS[name][1], device=device), layout)
    torchs = make_model(name).to(device)
    if not checkpoints:
        without_checkpoints(torchs)
    if layout == "channels_last":
        torchs = torchs.to(memory_format=torch.channels_last)
    truth = copy.deepcopy(torchs).double()
    steps = train_step(torchs, x), train_step(truth, x.double())
    state = torchs.state_dict()
    truth.load_state_dict(state)
    return x, steps, state, (evaluate(torchs, x), evaluate(truth, x.double()))


def errors_of(results, truth):
    """Relative ones; of a gradient that vanishes, as that of a bias before another normalization,
    relative to the largest."""
    norms = {name: value.double().norm().item() for name, value in truth.items()}
    largest = max(norm for name, norm in norms.items() if name.startswith("gradient"))
    return {name: (results[name].double() - value.double()).norm().item()
            / (norms[name] if norms[name] > 1e-9 * largest else largest)
            for name, value in truth.items() if "num_batches" not in name}


@pytest.fixture(autouse=True)
def convolutions_in_float32():
    """On a GPU they are in TF32 otherwise, whose rounding hides everything else."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def check(name, device, layout, mode):
    x, (torchs_step, true_step), state, (torchs_output, true_output) = \
        torchs_results(name, device, layout, checkpoints=mode == "eager")
    ours = make_model(name).to(device)
    if layout == "channels_last":
        ours = ours.to(memory_format=torch.channels_last)
    assert replace_batch_norm(ours) == MODELS[name][2]

    # Rounding in the convolutions grows on its way through the network, in both models alike, so
    # that torch's own error says how far a correct result may be from the float64 one.
    step = train_step(copy.deepcopy(ours), x, mode)
    mine, theirs = (errors_of(results, true_step) for results in (step, torchs_step))
    worst = max(theirs.values())
    assert worst < 1e-3, "the network is too chaotic to compare with"
    for key, error in mine.items():
        assert error <= 4 * max(theirs[key], 2.0**-23, worst / 16), \
            f"{key}: {error} against {theirs[key]}"
    counters = {key: value for key, value in true_step.items() if "num_batches" in key}
    assert counters == {key: step[key] for key in counters}

    # The same state for all: the evaluation alone is compared.
    ours.load_state_dict(state)
    found = evaluate(ours, x, mode)
    size = true_output.norm().item()
    error, allowed = ((o.double() - true_output).norm().item() / size
                      for o in (found, torchs_output))
    assert error <= 4 * max(allowed, 2.0**-23)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)  # outermost, so that torch's results are computed once
def test_models_train_and_evaluate_as_with_torchs_layers(name, mode):
    torch._dynamo.reset()
    check(name, "cpu", "contiguous", mode)


@INDUCTOR
def test_resnet18_evaluates_under_inductor(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    ours = make_model("resnet18").eval()
    replace_batch_norm(ours)
    x = random(MODELS["resnet18"][1])
    with torch.no_grad():
        found = torch.compile(ours, fullgraph=True)(x)
        truth = copy.deepcopy(ours).double()(x.double())
        eager = ours(x)
    error, allowed = ((o.double() - truth).norm() / truth.norm() for o in (found, eager))
    assert error <= 4 * max(allowed, 2.0**-23)


@LAYOUT
def test_resnet18_in_both_layouts(device, layout):
    needs_real_gpu(device)
    check("resnet18", device, layout, "eager")


def test_the_helper_really_replaces_the_layers():
    model = make_model("resnet18")
    replace_batch_norm(model)
    with torch.profiler.profile() as profile:
        model(random((2, 3, 32, 32)))
    names = [event.key for event in profile.key_averages()]
    assert any("torchbn::batch_norm" in n for n in names)
    assert not any("aten::batch_norm" in n or "native_batch_norm" in n for n in names)
