"""cuDNN's legacy calls, without cuDNN or a GPU: what is asked of the library, and in which order."""

import ctypes
import pathlib
import re

import pytest
import torch

import cudnn_layer
import cudnn_legacy as legacy


class Recorder:
    """A library that does nothing but remember, hands out handles, and wants memory."""

    def __init__(self, status=0):
        self.calls, self.status = [], status

    def __getattr__(self, name):
        if not name.startswith("cudnn"):
            raise AttributeError(name)

        def function(*arguments):
            # As ctypes would: too many, too few or unfit arguments raise.
            assert len(arguments) == len(function.argtypes), name
            for value, kind in zip(arguments, function.argtypes, strict=True):
                kind.from_param(value)
            if name.startswith("cudnnCreate"):
                arguments[0]._obj.value = 1000 + len(self.calls)
            if name.startswith("cudnnGet"):
                arguments[-1]._obj.value = 64
            self.calls.append((name, arguments))
            return self.status

        setattr(self, name, function)
        return function

    @property
    def names(self):
        return [name for name, _ in self.calls]


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(cudnn_layer, "stream", lambda: 77)
    return Recorder()


def tensors(shape=(4, 6, 5, 7), dtype=torch.bfloat16):
    x = torch.randn(shape).to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return x, *(torch.rand(shape[1], dtype=wide) for _ in range(4))


PREPARED = ["cudnnCreate", "cudnnCreateTensorDescriptor", "cudnnSetTensorNdDescriptor",
            "cudnnCreateTensorDescriptor", "cudnnDeriveBNTensorDescriptor",
            "cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize",
            "cudnnGetBatchNormalizationBackwardExWorkspaceSize",
            "cudnnGetBatchNormalizationTrainingExReserveSpaceSize"]


@pytest.mark.parametrize("mode", [legacy.SPATIAL, legacy.SPATIAL_PERSISTENT])
def test_a_step_is_prepared_once_and_then_two_calls(recorder, mode):
    x, weight, bias, mean, var = tensors()
    for leaf in (x, weight, bias):
        leaf.requires_grad_()
    call = legacy.batch_norm(mode, 0.1, 1e-5, legacy.Library(recorder))
    for step in range(2):
        y = call(x, mean, var, weight, bias, True)
        dy = torch.ones_like(y)
        dx, dweight, dbias = torch.autograd.grad(y, (x, weight, bias), dy)
        assert (dx.shape, dweight.shape, dbias.dtype) == (x.shape, weight.shape, torch.float32)
        names = ["cudnnSetStream", "cudnnBatchNormalizationForwardTrainingEx", "cudnnSetStream",
                 "cudnnBatchNormalizationBackwardEx"]
        assert recorder.names == PREPARED + names * (step + 1)

    forward, backward = (arguments for _, arguments in recorder.calls[-3::2])
    handle = forward[0].value
    assert recorder.calls[-4][1] == (forward[0], 77) and handle == 1000
    assert forward[1:3] == backward[1:3] == (mode, legacy.OPS_BN)
    assert [factor._obj.value for factor in forward[3:5]] == [1, 0]
    assert [type(factor._obj) for factor in forward[3:5]] == [ctypes.c_float] * 2
    descriptor, channels = forward[5], forward[11]
    assert descriptor.value == 1001 and channels.value == 1003
    assert forward[6] == x.data_ptr() and forward[7:9] == (None, None) and forward[9] is descriptor
    assert forward[12:17] == (weight.data_ptr(), bias.data_ptr(), 0.1, mean.data_ptr(),
                              var.data_ptr())
    assert forward[17] == 1e-5 and forward[20] is None and forward[22] == forward[24] == 64
    # The saved statistics and the reserve go from forward to backward.
    assert backward[-7:-4] == (*forward[18:20], None) and backward[-2:] == forward[-2:]
    assert [factor._obj.value for factor in backward[3:7]] == [1, 0, 1, 0]
    assert backward[8] == x.data_ptr() and backward[12] == dy.data_ptr()
    assert backward[9:11] == backward[13:15] == (None, None)
    assert backward[17] is channels and backward[18:20] == forward[12:14]
    assert backward[22] == 1e-5


def test_evaluation_is_a_call_without_backward(recorder):
    x, weight, bias, mean, var = tensors(dtype=torch.float64)
    call = legacy.batch_norm(legacy.SPATIAL, 0.1, 1e-5, legacy.Library(recorder))
    call(x, mean, var, weight, bias, False)
    name, arguments = recorder.calls[-1]
    assert name == "cudnnBatchNormalizationForwardInference"
    assert arguments[9:] == (weight.data_ptr(), bias.data_ptr(), mean.data_ptr(), var.data_ptr(),
                             1e-5)
    assert type(arguments[2]._obj) is ctypes.c_double
    with pytest.raises(NotImplementedError, match="no backward pass of evaluation"):
        call(x.requires_grad_(), mean, var, weight, bias, False)


def test_a_status_is_an_error(recorder):
    lib = legacy.Library(recorder)
    recorder.status = 3000
    with pytest.raises(RuntimeError, match="cudnnCreateTensorDescriptor gives status 3000"):
        legacy.Layer(lib, tensors()[0], legacy.SPATIAL)


@pytest.mark.parametrize("x, strides", [
    (torch.empty(4, 6), (6, 1, 6, 6)), (torch.empty(4, 6, 5), (30, 5, 1, 1)),
    (torch.empty(4, 5, 6).transpose(1, 2), (30, 1, 6, 6)),
    (torch.empty(4, 6, 5, 7), (210, 35, 7, 1)),
    (torch.empty(4, 6, 5, 7).contiguous(memory_format=torch.channels_last), (210, 1, 42, 6)),
    (torch.empty(2, 3, 4, 5, 6), (360, 120, 30, 6, 1))])
def test_descriptors_have_the_layout_of_the_tensor(recorder, x, strides):
    legacy.Layer(legacy.Library(recorder), x, legacy.SPATIAL)
    _, dtype, count, sizes, found = dict(recorder.calls)["cudnnSetTensorNdDescriptor"]
    assert tuple(found) == strides and count == len(strides) and dtype == 0
    assert tuple(sizes)[:x.dim()] == tuple(x.shape) and set(sizes[x.dim():]) <= {1}


@pytest.fixture(scope="module")
def header():
    """What the wheel says of itself; comments are gone."""
    folder = pathlib.Path(legacy.find()).parent.parent / "include"
    text = "".join(path.read_text() for path in sorted(folder.glob("cudnn_*_v9.h")))
    if not text:
        pytest.skip("there is no cuDNN here, or not its headers")
    return re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)


def test_constants_are_those_of_the_header(header):
    names = {"CUDNN_BATCHNORM_SPATIAL": legacy.SPATIAL, "CUDNN_BATCHNORM_OPS_BN": legacy.OPS_BN,
             "CUDNN_BATCHNORM_SPATIAL_PERSISTENT": legacy.SPATIAL_PERSISTENT,
             "CUDNN_DATA_FLOAT": legacy.DATA[torch.float32],
             "CUDNN_DATA_DOUBLE": legacy.DATA[torch.float64],
             "CUDNN_DATA_HALF": legacy.DATA[torch.float16],
             "CUDNN_DATA_BFLOAT16": legacy.DATA[torch.bfloat16]}
    for name, value in names.items():
        assert int(re.search(rf"\b{name}\s*=\s*(\d+)", header)[1]) == value, name


@pytest.mark.parametrize("name", legacy.SIGNATURES)
def test_signatures_are_those_of_the_header(header, name):
    declared = re.search(rf"\b{name}\(([^;]*)\);", header)[1]
    letters = ""
    for parameter in declared.split(","):
        words = parameter.split()
        kind = " ".join(words[:-1]).removeprefix("const ")
        pointer = "*" in parameter or "[]" in parameter or kind.endswith(
            ("Handle_t", "Descriptor_t", "Stream_t")) or kind in ("cudnnHandle_t", "cudaStream_t")
        letters += "p" if pointer else {"double": "d", "size_t": "z"}.get(kind, "i")
        assert pointer or kind in ("double", "size_t", "int") or kind.endswith(
            ("Mode_t", "Ops_t", "DataType_t")), parameter
    assert letters == legacy.SIGNATURES[name]
