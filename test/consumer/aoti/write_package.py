"""Compiles an exported net with torchbn's operator ahead of time: write_package.py LIBRARY FOLDER

Writes net.pt2, and example.pt with an input and the output that Python gets.
"""

import pathlib
import sys

import torch
from torch import nn
from torch._inductor import config


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.weight = nn.Parameter(torch.linspace(-1, 2, 4))
        self.bias = nn.Parameter(torch.linspace(0.5, -0.5, 4))
        self.register_buffer("running_mean", torch.linspace(-1, 1, 4))
        self.register_buffer("running_var", torch.linspace(0.5, 2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, 4, H - 2, W - 2]"""
        return torch.ops.torchbn.batch_norm(
            self.conv(x), self.weight, self.bias, self.running_mean, self.running_var).relu()


def main():
    library, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.ops.load_library(library)
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 8, 8)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))

    folder.mkdir(parents=True, exist_ok=True)
    # Precompiling torch's headers takes longer than compiling this net.
    config.cpp_cache_precompile_headers = False
    torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "net.pt2"))
    x = torch.randn(5, 3, 8, 8)  # another batch size
    torch.save({"input": x, "output": net(x).detach()}, folder / "example.pt")


if __name__ == "__main__":
    main()
