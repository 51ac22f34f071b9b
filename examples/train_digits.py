#!/usr/bin/env python3
"""Trains a deep convolutional net on handwritten digits three times, from the same initial weights
and on the same batches: without batch normalization, with torch.nn's, and with torchbn's.

It prints accuracy and time of each, shows that the two batch norms follow the same curve, draws
what batch norm changes, and saves the third net as TorchScript for examples/infer_digits.cpp.
"""

import argparse
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import torch
import torchbn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from tqdm import tqdm

matplotlib.use("Agg")  # needs no display
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

DEPTH = 8  # convolutions
WIDTH = 16  # channels of each
BATCH = 64
# Of 0.005, 0.02, 0.05 and 0.1 the rate at which the net without batch norm does best.
LEARNING_RATE = 0.02
PERCENTILES = (15, 50, 85)  # those of figure 1 in Ioffe & Szegedy 2015


# The batch norm of each variant, made for a number of channels.
VARIANTS = {"none": nn.Identity, "torch.nn": nn.BatchNorm2d, "torchbn": torchbn.nn.BatchNorm2d}
LABELS = {
    "none": "without batch norm",
    "torch.nn": "torch.nn.BatchNorm2d",
    "torchbn": "torchbn.nn.BatchNorm2d",
}


@dataclass
class Digits:
    """The digits that scikit-learn ships: 8 x 8 pixels, 1437 to learn from and 360 held out."""

    train_images: torch.Tensor  # [1437, 1, 8, 8], between 0 and 1
    train_labels: torch.Tensor  # [1437]
    test_images: torch.Tensor  # [360, 1, 8, 8]
    test_labels: torch.Tensor  # [360]


@dataclass
class Run:
    """What one training leaves behind."""

    net: nn.Module
    losses: list = field(default_factory=list)  # per epoch, mean over its batches
    accuracies: list = field(default_factory=list)  # per epoch, on the held-out digits
    percentiles: list = field(default_factory=list)  # per step, of the watched unit's input
    seconds: float = 0.0  # without the evaluations
    logits: torch.Tensor | None = None  # of the held-out digits after the last epoch, [360, 10]


def load() -> Digits:
    data = load_digits()
    images = torch.tensor(data.images / 16, dtype=torch.float32).unsqueeze(1)
    labels = torch.tensor(data.target, dtype=torch.int64)
    train, test = train_test_split(
        range(len(labels)), test_size=360, random_state=0, stratify=data.target
    )
    return Digits(images[train], labels[train], images[test], labels[test])


def make_net(make_norm, seed: int) -> nn.Sequential:
    """[N, 1, 8, 8] -> [N, 10]. The seed alone decides the weights, whatever the normalization."""
    torch.manual_seed(seed)
    layers, channels = [], 1
    for depth in range(DEPTH):
        conv = nn.Conv2d(channels, WIDTH, 3, padding=1, stride=2 if depth == DEPTH // 2 else 1)
        # He et al. 2015: keeps the variance through ReLU layers, or the plain net never learns.
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)
        layers += [conv, make_norm(WIDTH), nn.ReLU()]
        channels = WIDTH
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10))


def train(name: str, digits: Digits, epochs: int, seed: int) -> Run:
    """Trains one variant with SGD and watches what reaches one unit of the last ReLU layer."""
    dtype = digits.train_images.dtype
    run = Run(make_net(VARIANTS[name], seed).to(dtype))
    optimizer = torch.optim.SGD(run.net.parameters(), lr=LEARNING_RATE, momentum=0.9)
    order = torch.Generator().manual_seed(seed)
    quantiles = torch.tensor(PERCENTILES, dtype=dtype) / 100

    def watch(relu, inputs):
        if relu.training:
            unit = inputs[0].detach()[:, 0]  # channel 0, [N, H, W]
            run.percentiles.append(unit.flatten().quantile(quantiles).tolist())

    last_relu = [layer for layer in run.net if isinstance(layer, nn.ReLU)][-1]
    hook = last_relu.register_forward_pre_hook(watch)

    bar = tqdm(range(epochs), desc=f"{name:8}", unit="epoch", mininterval=0.5, ncols=100)
    for _ in bar:
        run.net.train()
        losses = []
        start = time.perf_counter()
        shuffled = torch.randperm(len(digits.train_labels), generator=order)
        for batch in shuffled.split(BATCH):
            logits = run.net(digits.train_images[batch])
            loss = nn.functional.cross_entropy(logits, digits.train_labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        run.seconds += time.perf_counter() - start
        run.losses.append(sum(losses) / len(losses))
        run.logits = evaluate(run.net, digits)
        hits = run.logits.argmax(1) == digits.test_labels
        run.accuracies.append(hits.double().mean().item())
        bar.set_postfix_str(f"loss {run.losses[-1]:.3f}, accuracy {run.accuracies[-1]:.1%}", False)
    hook.remove()
    return run


@torch.no_grad()
def evaluate(net: nn.Module, digits: Digits) -> torch.Tensor:
    """The logits of the held-out digits, [360, 10]; leaves the net in evaluation mode."""
    return net.eval()(digits.test_images)


def table(runs: dict[str, Run]) -> str:
    lines = [f"{'':30}{'training loss':>15}{'accuracy':>11}{'time':>10}"]
    for name, run in runs.items():
        figures = f"{run.losses[-1]:15.4f}{run.accuracies[-1]:11.2%}{run.seconds:8.1f} s"
        lines.append(f"{LABELS[name]:30}{figures}")
    return "\n".join(lines)


def difference(runs: dict[str, Run]) -> tuple[float, float]:
    """Between torch.nn and torchbn, the largest of an epoch's loss, and of the final logits."""
    ours, theirs = runs["torchbn"], runs["torch.nn"]
    losses = max(abs(a - b) for a, b in zip(ours.losses, theirs.losses))
    return losses, (ours.logits - theirs.logits).abs().max().item()


def compare(runs: dict[str, Run], digits: Digits, epochs: int, seed: int) -> bool:
    """Shows that torch.nn's and torchbn's curves are the same.

    The two round differently and training amplifies that, as it would any other tiny change. So
    the comparison is repeated in double precision, where the differences all but vanish.
    """
    epochs = min(epochs, 5)
    print("\nThe two batch norms once more, in float64:", flush=True)
    doubles = Digits(
        digits.train_images.double(),
        digits.train_labels,
        digits.test_images.double(),
        digits.test_labels,
    )
    exact = {name: train(name, doubles, epochs, seed) for name in ("torch.nn", "torchbn")}
    print("\nLargest difference between torch.nn and torchbn, of an epoch's loss and of a logit:")
    for what, pair in (("float32", runs), ("float64", exact)):
        losses, logits = difference(pair)
        print(f"  {what}, after {len(pair['torchbn'].losses)} epochs: {losses:.0e}, {logits:.0e}")
    same = all(value < 1e-8 for value in difference(exact))
    if same:
        print("The curves are the same but for float32's rounding, which training amplifies.")
    else:
        print("error: torchbn does not follow torch.nn's curve", file=sys.stderr)
    return same


def draw(runs: dict[str, Run], path: Path) -> None:
    """Above: the training curves. Below: what reaches one unit of the last ReLU layer."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    figure.suptitle(
        f"Batch normalization in a net of {DEPTH} convolutions learning handwritten digits",
        fontsize=14,
    )
    styles = {
        "none": {"color": "tab:red"},
        "torch.nn": {"color": "tab:cyan", "linewidth": 5, "alpha": 0.6},
        "torchbn": {"color": "tab:blue"},
    }
    for name, run in runs.items():
        epochs = range(1, len(run.losses) + 1)
        axes[0, 0].plot(epochs, run.losses, label=LABELS[name], **styles[name])
        axes[0, 1].plot(epochs, run.accuracies, label=LABELS[name], **styles[name])
    axes[0, 0].set(title="Training loss", xlabel="epoch", ylabel="cross-entropy")
    axes[0, 1].set(title="Held-out digits", xlabel="epoch", ylabel="accuracy")
    axes[0, 1].yaxis.set_major_formatter(PercentFormatter(1))
    for axis in axes[0]:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))

    axes[1, 0].sharey(axes[1, 1])
    below = zip(axes[1], ("none", "torchbn"), ("without batch norm", "with torchbn's batch norm"))
    for axis, name, where in below:
        low, median, high = zip(*runs[name].percentiles)
        steps = range(1, len(median) + 1)
        color = styles[name]["color"]
        band = f"{PERCENTILES[0]}th to {PERCENTILES[2]}th percentile"
        axis.fill_between(steps, low, high, color=color, alpha=0.3, linewidth=0, label=band)
        axis.plot(steps, median, color=color, label="median")
        title = f"Input of one unit of the last ReLU layer,\n{where}"
        axis.set(title=title, xlabel="training step", ylabel="value")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def export(run: Run, digits: Digits, folder: Path) -> None:
    """Writes what examples/infer_digits.cpp and examples/train.cpp read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; here it is the point
        torch.jit.script(run.net.eval()).save(folder / "model.pt")
    # A dict of tensors can be read by torch::jit::pickle_load.
    torch.save({**vars(digits), "logits": run.logits}, folder / "digits.pt")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    output = ROOT / "build/demo"
    parser.add_argument("--epochs", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=output, help="folder; default: %(default)s")
    arguments = parser.parse_args()
    if arguments.epochs < 1:
        parser.error("--epochs must be at least 1")
    return arguments


def main() -> int:
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    # The images are small: more threads bring little, and cost a lot where others use them too.
    torch.set_num_threads(1)

    digits = load()
    runs = {name: train(name, digits, arguments.epochs, arguments.seed) for name in VARIANTS}
    print(f"\n{table(runs)}")
    (arguments.output / "table.txt").write_text(table(runs) + "\n")
    same = compare(runs, digits, arguments.epochs, arguments.seed)

    draw(runs, arguments.output / "batch_norm.png")
    export(runs["torchbn"], digits, arguments.output)
    print(f"\nWrote batch_norm.png, table.txt, model.pt and digits.pt to {arguments.output}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
