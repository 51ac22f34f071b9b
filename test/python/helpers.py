"""What the tests share: the library, marks, tensors in every layout, running code elsewhere."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = ["contiguous", "channels_last", "permuted", "sliced", "offset", "expanded"]

MODE = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
MOMENTUM = pytest.mark.parametrize("momentum", [0.1, None], ids=["momentum0.1", "cumulative"])
LAYOUT = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
INDUCTOR = pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None,
                              reason="Inductor needs a C++ compiler")


def library_path():
    return pathlib.Path(os.environ.get("TORCHBN_LIBRARY") or ROOT / "build" / "libtorchbn.so")


def load_library():
    path = library_path()
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no torchbn library at {path}: run scripts/build.sh, or name one with "
            "TORCHBN_LIBRARY")
    torch.ops.load_library(str(path.resolve()))


def is_simulated_gpu():
    """Is the GPU one of test/cuda/simulated/?"""
    return torch.cuda.get_device_name().startswith("simulated")


def needs_real_gpu(device="cuda"):
    """Skips on a simulated GPU. That one is slow, runs all immediately, and knows no kernels but
    torchbn's and what the CPU's can do for torch's."""
    if device == "cuda" and is_simulated_gpu():
        pytest.skip("the GPU is simulated")


def batch_norm(*args, **kwargs):
    return torch.ops.torchbn.batch_norm(*args, **kwargs)


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def half_or_float(dtype, wide):
    """The type of parameters: the input's, or float32 for the half types."""
    return torch.float32 if wide and dtype in (torch.bfloat16, torch.float16) else dtype


def random(shape, dtype=torch.float32, device="cpu", *, mean=0.0, std=1.0, seed=0):
    """Normal values, the same ones on every device."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, dtype=torch.float64, generator=generator)
    return (values * std + mean).to(dtype).to(device)


def parameters(channels, dtype=torch.float32, device="cpu", *, seed=1):
    """weight and bias; some weights are negative."""
    return (random((channels,), dtype, device, mean=0.5, seed=seed),
            random((channels,), dtype, device, seed=seed + 1))


def statistics(channels, dtype=torch.float32, device="cpu", *, seed=3):
    """running_mean and running_var"""
    return (random((channels,), dtype, device, seed=seed),
            random((channels,), dtype, device, seed=seed + 1).abs() + 0.5)


def in_layout(tensor, layout):
    """A tensor with the same values that lies in memory in another way. The expanded one has the
    values of the first of the batch throughout."""
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "permuted":
        order = list(reversed(range(tensor.dim())))
        return tensor.permute(order).contiguous().permute(order)
    if layout == "sliced":
        return tensor.repeat_interleave(2, dim=-1)[..., ::2]
    if layout == "offset":
        memory = tensor.new_empty(tensor.numel() + 1)
        return memory[1:].view(tensor.shape).copy_(tensor)
    if layout == "expanded":
        return tensor[:1].clone().expand_as(tensor)
    raise ValueError(layout)


def strides(tensor):
    """The strides that mean something: along an axis of one element any number does."""
    return [s for s, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def run_python(code, *, timeout=120, **environment):
    """Runs code in a fresh interpreter, in which a crash is a result and not the end."""
    path = os.pathsep.join([str(pathlib.Path(__file__).parent), str(ROOT / "python")])
    env = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True,
                          timeout=timeout, check=False)


def check_library_is_missed(load, words):
    """In a process without torchbn, loading what needs it raises, and the words say what is missing."""
    result = run_python(f"import torch; {load}")
    assert result.returncode > 0, "it must raise, neither load nor crash"
    assert words in result.stderr


class Snapshot:
    """The tensors' bytes and version counters, to show later that nothing has touched them."""

    def __init__(self, *tensors):
        self.tensors = [t for t in tensors if isinstance(t, torch.Tensor)]
        self.before = [self._state(t) for t in self.tensors]

    def assert_unchanged(self):
        for tensor, before in zip(self.tensors, self.before, strict=True):
            values, version = self._state(tensor)
            assert version == before[1], "a version counter was bumped"
            if values is not None:
                assert torch.equal(values, before[0]), "a tensor was modified"

    @staticmethod
    def _state(tensor):
        version = None if tensor.is_inference() else tensor._version
        if tensor.is_meta:
            return None, version
        whole = tensor.detach()
        if whole.layout != torch.strided:
            return whole.to_dense(), version
        # The whole storage: writing beside the tensor counts as well.
        memory = torch.empty(0, dtype=torch.uint8, device=whole.device)
        return memory.set_(whole.untyped_storage()).clone(), version
