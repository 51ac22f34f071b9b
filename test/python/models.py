"""Modules on the operator, and torch's modules put on it."""

import torch

import torchbn


class BatchNorm(torch.nn.Module):
    """torch.nn.BatchNorm*d's state with the operator for its forward; scripts, compiles, exports."""

    def __init__(self, channels: int, momentum: float | None = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, channels))
        self.bias = torch.nn.Parameter(torch.linspace(-1, 1, channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.torchbn.batch_norm(
            x, self.weight, self.bias, self.running_mean, self.running_var, self.training,
            self.momentum, self.eps, num_batches_tracked=self.num_batches_tracked)


class Net(torch.nn.Module):
    def __init__(self, momentum: float | None = 0.1, norm=BatchNorm):
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 8, 3)
        self.norm = norm(8, momentum)
        self.linear = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.convolution(x)).relu().mean([2, 3]))


def replace_batch_norm(model):
    """Puts the model on torchbn; returns how many layers that were."""
    torchbn.convert(model)
    return sum(type(layer).__module__ == "torchbn.nn" for layer in model.modules())
