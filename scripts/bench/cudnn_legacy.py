"""cuDNN's batch normalization through its own library, the one that torch's wheel brings along.

torch itself goes there only for some types and layouts. These are the legacy calls, in both of their
modes: SPATIAL, and SPATIAL_PERSISTENT, which reads the input once where that fits on the chip.
Calls through ctypes cost microseconds of Python, so that it is in CUDA graphs that this is compared.
"""

import ctypes
import functools
import pathlib
import sys

import cudnn_layer
import torch

SPATIAL, SPATIAL_PERSISTENT = 1, 2  # cudnnBatchNormMode_t
OPS_BN = 0  # cudnnBatchNormOps_t
DATA = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 9}  # cudnnDataType_t

TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int, "d": ctypes.c_double, "z": ctypes.c_size_t}
SIGNATURES = {
    "cudnnCreate": "p",
    "cudnnSetStream": "pp",
    "cudnnCreateTensorDescriptor": "p",
    "cudnnSetTensorNdDescriptor": "piipp",
    "cudnnDeriveBNTensorDescriptor": "ppi",
    "cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize": "piipppppp",
    "cudnnGetBatchNormalizationTrainingExReserveSpaceSize": "piippp",
    "cudnnGetBatchNormalizationBackwardExWorkspaceSize": "piipppppppp",
    "cudnnBatchNormalizationForwardTrainingEx":
        "pii" "pp" "pppppp" "ppp" "dpp" "d" "pp" "p" "pz" "pz",
    "cudnnBatchNormalizationForwardInference": "pi" "pp" "pppp" "ppppp" "d",
    "cudnnBatchNormalizationBackwardEx":
        "pii" "pppp" "pppppppppp" "ppppp" "d" "pp" "p" "pz" "pz",
}


def find():
    """The library's file in the wheel, or the name that the system may know it by."""
    for folder in map(pathlib.Path, sys.path):
        path = folder / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
        if path.is_file():
            return str(path)
    return "libcudnn.so.9"


def missing(device):
    try:
        ctypes.CDLL(find())
    except OSError as error:
        return f"{type(error).__name__}: libcudnn.so.9 cannot be loaded"
    return None


class Library:
    """The functions, each raising where its status is not 0, and a handle."""

    def __init__(self, functions):
        self.functions = functions
        for name, letters in SIGNATURES.items():
            function = getattr(functions, name)
            function.argtypes = [TYPES[letter] for letter in letters]
            function.restype = ctypes.c_int
        self.handle = self.new("cudnnCreate")

    def call(self, name, *arguments):
        status = getattr(self.functions, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} gives status {status}")

    def new(self, name):
        """A handle or a descriptor."""
        made = ctypes.c_void_p()
        self.call(name, ctypes.byref(made))
        return made

    def bytes(self, name, *arguments):
        """How much memory the function asks for."""
        size = ctypes.c_size_t()
        self.call(name, *arguments, ctypes.byref(size))
        return size.value


@functools.cache
def library():
    return Library(ctypes.CDLL(find()))


class Layer:
    """One kind of call: descriptors, sizes of memory, factors."""

    def __init__(self, lib, x, mode):
        self.lib, self.mode = lib, mode
        sizes, strides = cudnn_layer.sizes_and_strides(x)
        array = ctypes.c_int * len(sizes)
        self.x = lib.new("cudnnCreateTensorDescriptor")
        lib.call("cudnnSetTensorNdDescriptor", self.x, DATA[x.dtype], len(sizes), array(*sizes),
                 array(*strides))
        self.channels = lib.new("cudnnCreateTensorDescriptor")
        lib.call("cudnnDeriveBNTensorDescriptor", self.channels, self.x, mode)
        how = (lib.handle, mode, OPS_BN)
        self.forward_bytes = lib.bytes(
            "cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize", *how, self.x, None, self.x,
            self.channels, None)
        self.backward_bytes = lib.bytes(
            "cudnnGetBatchNormalizationBackwardExWorkspaceSize", *how, self.x, None, self.x, None,
            self.x, self.channels, None)
        self.reserve_bytes = lib.bytes(
            "cudnnGetBatchNormalizationTrainingExReserveSpaceSize", *how, None, self.x)
        real = ctypes.c_double if x.dtype == torch.float64 else ctypes.c_float
        self.one, self.zero = real(1), real(0)
        self.factors = (ctypes.byref(self.one), ctypes.byref(self.zero))

    def train(self, x, weight, bias, running_mean, running_var, momentum, eps):
        """y, and what backward needs: mean, invstd, reserve."""
        y = torch.empty_like(x)
        mean, invstd = torch.empty_like(weight), torch.empty_like(weight)
        work = x.new_empty(self.forward_bytes, dtype=torch.uint8)
        reserve = x.new_empty(self.reserve_bytes, dtype=torch.uint8)
        self.lib.call("cudnnSetStream", self.lib.handle, cudnn_layer.stream())
        self.lib.call(
            "cudnnBatchNormalizationForwardTrainingEx", self.lib.handle, self.mode, OPS_BN,
            *self.factors, self.x, x.data_ptr(), None, None, self.x, y.data_ptr(), self.channels,
            weight.data_ptr(), bias.data_ptr(), momentum, running_mean.data_ptr(),
            running_var.data_ptr(), eps, mean.data_ptr(), invstd.data_ptr(), None, work.data_ptr(),
            self.forward_bytes, reserve.data_ptr(), self.reserve_bytes)
        return y, mean, invstd, reserve

    def inference(self, x, weight, bias, running_mean, running_var, eps):
        y = torch.empty_like(x)
        self.lib.call("cudnnSetStream", self.lib.handle, cudnn_layer.stream())
        self.lib.call(
            "cudnnBatchNormalizationForwardInference", self.lib.handle, self.mode, *self.factors,
            self.x, x.data_ptr(), self.x, y.data_ptr(), self.channels, weight.data_ptr(),
            bias.data_ptr(), running_mean.data_ptr(), running_var.data_ptr(), eps)
        return y

    def backward(self, dy, x, weight, bias, mean, invstd, reserve, eps):
        dx, dweight, dbias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        work = x.new_empty(self.backward_bytes, dtype=torch.uint8)
        self.lib.call("cudnnSetStream", self.lib.handle, cudnn_layer.stream())
        self.lib.call(
            "cudnnBatchNormalizationBackwardEx", self.lib.handle, self.mode, OPS_BN, *self.factors,
            *self.factors, self.x, x.data_ptr(), None, None, self.x, dy.data_ptr(), None, None,
            self.x, dx.data_ptr(), self.channels, weight.data_ptr(), bias.data_ptr(),
            dweight.data_ptr(), dbias.data_ptr(), eps, mean.data_ptr(), invstd.data_ptr(), None,
            work.data_ptr(), self.backward_bytes, reserve.data_ptr(), self.reserve_bytes)
        return dx, dweight, dbias


def batch_norm(mode, momentum, eps, lib=None):
    """A function as peers.py has them."""
    return cudnn_layer.batch_norm(lambda x: Layer(lib or library(), x, mode), momentum, eps)
