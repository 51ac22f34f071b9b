"""A network from torchvision on the operator: one training step and one evaluation."""

import copy

import pytest
import torch

from helpers import in_layout, random
from models import replace_batch_norm

torchvision = pytest.importorskip("torchvision")


def make_resnet():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def train_step(model, x, target):
    """Logits, loss, gradients, running statistics, and the parameters after a step of SGD."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    output = model(x)
    loss = torch.nn.functional.cross_entropy(output, target)
    loss.backward()
    gradients = {f"gradient of {n}": p.grad.clone() for n, p in model.named_parameters()}
    optimizer.step()
    return {"output": output.detach(), "loss": loss.detach(), **gradients,
            **dict(model.named_buffers()), **dict(model.named_parameters())}


def relative_error(found, truth):
    return ((found.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-300)).item()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_resnet18_trains_and_evaluates_as_with_torchs_layers(device, layout):
    torchs = make_resnet().to(device)
    if layout == "channels_last":
        torchs = torchs.to(memory_format=torch.channels_last)
    ours, truth = copy.deepcopy(torchs), copy.deepcopy(torchs).double()
    assert replace_batch_norm(ours) == 20
    x = in_layout(random((4, 3, 48, 48), device=device), layout)
    target = torch.tensor([1, 7, 3, 0], device=device)

    results = [train_step(m, d, target) for m, d in
               ((ours, x), (torchs, x), (truth, x.double()))]
    # Rounding in the convolutions grows on its way through the network, in both models alike, so
    # that torch's own error says how far a correct result may be from the float64 one.
    errors = {name: [relative_error(r[name], results[2][name]) for r in results[:2]]
              for name in results[2] if "num_batches" not in name}
    worst = max(theirs for _, theirs in errors.values())
    assert worst < 1e-3, "the network is too chaotic to compare with"
    for name, (mine, theirs) in errors.items():
        assert mine <= 4 * max(theirs, 2.0**-23, worst / 16), f"{name}: {mine} against {theirs}"
    assert all(m.num_batches_tracked == 1 for m in ours.modules()
               if isinstance(m, torch.nn.BatchNorm2d))

    # The same state for all three: the evaluation alone is compared.
    ours.load_state_dict(torchs.state_dict())
    truth.load_state_dict(torchs.state_dict())
    with torch.no_grad():
        mine, theirs, right = (m.eval()(d) for m, d in
                               ((ours, x), (torchs, x), (truth, x.double())))
    assert relative_error(mine, right) <= 4 * max(relative_error(theirs, right), 2.0**-23)


def test_the_helper_really_replaces_the_layers():
    model = make_resnet()
    replace_batch_norm(model)
    with torch.profiler.profile() as profile:
        model(random((2, 3, 32, 32)))
    names = [event.key for event in profile.key_averages()]
    assert any("torchbn::batch_norm" in n for n in names)
    assert not any("aten::batch_norm" in n or "native_batch_norm" in n for n in names)
