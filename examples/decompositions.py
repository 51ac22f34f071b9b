"""The operators of torchbn written in ATen's: for exporters, and backends that know no custom operator.

A program that was exported in evaluation becomes one of core ATen operators only:

    program = torch.export.export(model.eval(), arguments)
    program = program.run_decompositions(decompositions())
    torch.onnx.export(program, ...)

Operators that update buffers are out of such a table's reach. For a program that trains, they are
replaced while it is exported:

    with AtenOperators():
        program = torch.export.export(model.train(), arguments)

What this gives is ATen's arithmetic: a float32 mean, in evaluation one scale and shift.
"""

import torch
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten
torchbn = torch.ops.torchbn


def _wide(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _axes(tensor):
    return [0, *range(2, tensor.dim())]


def _channels(vector, like):
    return vector.reshape([1, -1] + [1] * (like.dim() - 2))


def batch_norm_train(input, weight, bias, running_mean, running_var, num_batches_tracked, momentum,
                     eps):
    x = input.to(_wide(input.dtype))
    var, mean = torch.var_mean(x, _axes(x), correction=0)
    invstd = torch.rsqrt(var + eps)
    output = (x - _channels(mean, x)) * _channels(invstd, x)
    if weight is not None:
        output = output * _channels(weight, x)
    if bias is not None:
        output = output + _channels(bias, x)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is not None:
        count = x.numel() // x.shape[1]
        step = momentum if momentum is not None else 1 / num_batches_tracked
        running_mean.add_((mean.detach() - running_mean) * step)
        running_var.add_((var.detach() * (count / (count - 1)) - running_var) * step)
    return output.to(input.dtype), mean.double(), invstd.double()


def batch_norm_inference(input, weight, bias, running_mean, running_var, eps):
    # ATen's operator wants one type of all of them.
    weight, bias, mean, var = (None if vector is None else vector.to(_wide(input.dtype))
                               for vector in (weight, bias, running_mean, running_var))
    output, _, _ = aten._native_batch_norm_legit_no_training(input, weight, bias, mean, var, 0.0,
                                                             eps)
    return output, running_mean.double(), torch.rsqrt(running_var.double() + eps)


def batch_norm_backward(grad_output, input, weight, mean, invstd, training, need_input, need_weight,
                        need_bias):
    wide = _wide(grad_output.dtype)
    dy = grad_output.to(wide)
    mean, invstd = mean.to(wide), invstd.to(wide)
    like = input if input is not None else grad_output
    parameter = weight.dtype if weight is not None else wide
    grad_input, grad_weight, grad_bias = (like.new_empty(0), like.new_empty(0, dtype=parameter),
                                          like.new_empty(0, dtype=parameter))
    axes = _axes(dy)
    if need_weight or (need_input and training):
        xhat = (input.to(wide) - _channels(mean, dy)) * _channels(invstd, dy)
    if need_input:
        scale = invstd if weight is None else invstd * weight
        if training:
            grad_input = (dy - dy.mean(axes, keepdim=True)
                          - xhat * (dy * xhat).mean(axes, keepdim=True))
        else:
            grad_input = dy
        grad_input = (grad_input * _channels(scale, dy)).to(like.dtype)
    if need_weight:
        grad_weight = (dy * xhat).sum(axes).to(parameter)
    if need_bias:
        grad_bias = dy.sum(axes).to(parameter)
    return grad_input, grad_weight, grad_bias


def batch_norm(input, weight=None, bias=None, running_mean=None, running_var=None, training=False,
               momentum=0.1, eps=1e-5, *, num_batches_tracked=None):
    if training:
        return batch_norm_train(input, weight, bias, running_mean, running_var,
                                num_batches_tracked, momentum, eps)[0]
    return batch_norm_inference(input, weight, bias, running_mean, running_var, eps)[0]


def decompositions():
    """torch's own table, and the operators in which an exported program may have torchbn's."""
    table = torch.export.default_decompositions()
    table[torchbn.batch_norm_inference.default] = batch_norm_inference
    table[torchbn.batch_norm_backward.default] = batch_norm_backward
    return table


class AtenOperators(TorchFunctionMode):
    """Within it torch.ops.torchbn.batch_norm is the function above."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function in (torchbn.batch_norm, torchbn.batch_norm.default):
            function = batch_norm
        return function(*arguments, **(keywords or {}))
