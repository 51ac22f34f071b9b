"""torch.nn's batch norms on torchbn's operators: BatchNorm1d, BatchNorm2d, BatchNorm3d.

Each is a subclass of the layer of torch.nn that has its name: the same arguments, parameters,
buffers and state_dict, the same error for a wrong number of dimensions. convert(model) makes them
of torch.nn's, revert(model) makes torch.nn's of them.

An output lies in memory as its input does, where torch.nn may return a contiguous one: of a transposed
input, reshape() and not view().

torch.nn.SyncBatchNorm.convert_sync_batchnorm makes torch's own layers of these as well: convert to
SyncBatchNorm first.
"""

import torch


# A step of the program where torch.fx traces a layer by itself: what it asks is not known there.
@torch.fx.wrap
def _check_dim(input: torch.Tensor, least: int, most: int) -> None:
    if input.dim() < least or input.dim() > most:
        expected = f"{least}D" if least == most else f"{least}D or {most}D"
        raise ValueError(f"expected {expected} input (got {input.dim()}D input)")


class _OnOperators:
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting():
            # Not what is traced itself, and not where a tracer has no modules at all.
            if (isinstance(input, torch.fx.Proxy)
                    and getattr(input.tracer, "root", self) is not self):
                return self._as_leaf(input)
        self._check_input_dim(input)
        mean, var = self.running_mean, self.running_var
        # The operator that updates nothing: frozen and exported layers are one node of constants.
        if not self.training and mean is not None and var is not None:
            return torch.ops.torchbn.batch_norm_inference(
                input, self.weight, self.bias, mean, var, self.eps)[0]
        # As in torch, a layer that has stopped tracking keeps its buffers for evaluation.
        tracks = self.training and self.track_running_stats
        return torch.ops.torchbn.batch_norm(
            input, self.weight, self.bias, mean if tracks else None, var if tracks else None,
            self.training or (mean is None and var is None), self.momentum, self.eps,
            num_batches_tracked=self.num_batches_tracked if tracks else None)

    def _as_leaf(self, input: torch.fx.Proxy) -> torch.fx.Proxy:
        """A call of this layer, as torch.fx's tracers, which go by the name of the module that a class
        is from, record it of torch.nn's: the graph then knows training from evaluation."""
        path = input.tracer.path_of_module(self)
        return input.tracer.create_proxy("call_module", path, (input,), {})


class BatchNorm1d(_OnOperators, torch.nn.BatchNorm1d):
    """torch.nn.BatchNorm1d on torchbn's operators: [N, C] or [N, C, L] to the same shape."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        _check_dim(input, 2, 3)


class BatchNorm2d(_OnOperators, torch.nn.BatchNorm2d):
    """torch.nn.BatchNorm2d on torchbn's operators: [N, C, H, W] to the same shape."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        _check_dim(input, 4, 4)


class BatchNorm3d(_OnOperators, torch.nn.BatchNorm3d):
    """torch.nn.BatchNorm3d on torchbn's operators: [N, C, D, H, W] to the same shape."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        _check_dim(input, 5, 5)


_TWINS = {getattr(torch.nn, twin.__name__): twin for twin in (BatchNorm1d, BatchNorm2d, BatchNorm3d)}

_LAZY = {torch.nn.LazyBatchNorm1d, torch.nn.LazyBatchNorm2d, torch.nn.LazyBatchNorm3d}


def convert(module: torch.nn.Module) -> torch.nn.Module:
    """Puts a model on torchbn: every torch.nn.BatchNorm1d, 2d and 3d in it becomes the layer of
    torchbn.nn that has its name.

    In place, and the module is returned: parameters, buffers, hooks and modes stay what they are, so
    that optimizers and checkpoints go on. A layer of another class, be it derived from one of these
    (torch.nn.SyncBatchNorm), may compute something else and is left alone. One of torch.nn's lazy
    layers becomes ours with its first input.
    """
    return _change_classes(module, _TWINS)


def revert(module: torch.nn.Module) -> torch.nn.Module:
    """The inverse of convert: every layer of torchbn.nn becomes the one of torch.nn that has its name.

    For what goes by the classes of torch.nn, such as the quantization of torch.ao. In place, and the
    module is returned.
    """
    return _change_classes(module, {twin: layer for layer, twin in _TWINS.items()})


def _change_classes(module, classes):
    for layer in module.modules():
        if type(layer) in classes:
            layer.__class__ = classes[type(layer)]
        elif type(layer) in _LAZY and layer.cls_to_become in classes:
            layer.cls_to_become = classes[layer.cls_to_become]
    return module
