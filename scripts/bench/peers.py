"""Whom torchbn is measured against. A further peer is one more line in PEERS."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import cudnn_graph
import cudnn_legacy
import torch
import torch.nn.functional as F
from machine import brief_error

MOMENTUM, EPS = 0.1, 1e-5


@dataclass(frozen=True)
class Peer:
    """`prepare` gives a function (x, running_mean, running_var, weight, bias, training) -> y that
    updates the buffers in training, and is called anew for each case. `missing` says why the peer
    cannot take part on one of its devices, or nothing. One that `compiles` takes seconds for a new
    graph."""

    name: str
    title: str
    prepare: Callable
    missing: Callable = lambda device: None
    devices: tuple = ("cpu", "cuda")
    compiles: bool = False


def aten(momentum=MOMENTUM):
    """Batch norm as PyTorch dispatches it."""
    return lambda x, mean, var, weight, bias, training: F.batch_norm(
        x, mean, var, weight, bias, training, momentum, EPS)


def native():
    """PyTorch's own kernels, also where it would rather call cuDNN."""
    return lambda x, mean, var, weight, bias, training: torch.native_batch_norm(
        x, weight, bias, mean, var, training, MOMENTUM, EPS)[0]


def torchbn(momentum=MOMENTUM):
    return lambda x, mean, var, weight, bias, training: torch.ops.torchbn.batch_norm(
        x, weight, bias, mean, var, training, momentum, EPS)


def inductor(mode=None):
    """The same call compiled. Graphs of other cases are forgotten: after a few shapes the compiler
    would go over to code for any shape, or give up."""
    import torch._functorch.config
    import torch._inductor.config

    torch._dynamo.reset()
    # Generated code has its number of threads written into it; set here it belongs to the key that
    # the cache on disk is searched with.
    torch._inductor.config.cpp.threads = torch.get_num_threads()
    # Nor does the instruction set belong to it: what was generated for another one crashes.
    if "ATEN_CPU_CAPABILITY" in os.environ:
        torch._inductor.config.fx_graph_cache = False
    # Without this the gradient of a kept graph raises. What backward could reuse the memory of is
    # as small as the statistics.
    torch._functorch.config.donated_buffer = False

    def batch_norm(x, mean, var, weight, bias, training):
        return F.batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS)

    # In one graph or not at all: what is left to eager execution would be measured as the peer's.
    return torch.compile(batch_norm, dynamic=False, fullgraph=True, mode=mode)


def no_compiler(device):
    """What torch.compile lacks here."""
    try:
        if device == "cuda":
            from torch.utils._triton import has_triton
            return None if has_triton() else "there is no Triton"
        from torch._inductor.cpp_builder import get_cpp_compiler
        get_cpp_compiler()
    except Exception as error:  # these functions are torch's own and may change or raise anything
        return brief_error(error)
    return None


GPU = ("cuda",)
PEERS = [
    Peer("aten", "ATen", aten),
    Peer("native", "ATen native", native, devices=GPU),
    Peer("inductor", "Inductor", inductor, no_compiler, compiles=True),
    # Without the graphs of its own that max-autotune makes: graphs are made here, of everyone.
    Peer("inductor_max", "Inductor max", functools.partial(inductor, "max-autotune-no-cudagraphs"),
         no_compiler, GPU, compiles=True),
    Peer("cudnn", "cuDNN",
         functools.partial(cudnn_legacy.batch_norm, cudnn_legacy.SPATIAL, MOMENTUM, EPS),
         cudnn_legacy.missing, GPU),
    Peer("cudnn_persistent", "cuDNN persistent",
         functools.partial(cudnn_legacy.batch_norm, cudnn_legacy.SPATIAL_PERSISTENT, MOMENTUM, EPS),
         cudnn_legacy.missing, GPU),
    Peer("cudnn_graph", "cuDNN graph", functools.partial(cudnn_graph.batch_norm, MOMENTUM, EPS),
         cudnn_graph.missing, GPU)]
NAMES = [peer.name for peer in PEERS]
OURS = Peer("torchbn", "torchbn", torchbn)
TITLES = {"floor": "floor", **{peer.name: peer.title for peer in [*PEERS, OURS]}}


def names_of(device, compiles=None):
    """Of all peers of the device, or of those alone that compile or do not."""
    return [peer.name for peer in PEERS
            if device in peer.devices and compiles in (None, peer.compiles)]


def choose(names, device):
    """Those of the named peers that can take part, and a sentence for each that cannot."""
    reasons = {peer.name: peer.missing(device) if device in peer.devices
               else f"it does not run on {device}" for peer in PEERS if peer.name in names}
    chosen = [peer for peer in PEERS if peer.name in names and not reasons[peer.name]]
    return chosen, [f"without {name}: {reason}" for name, reason in reasons.items() if reason]
