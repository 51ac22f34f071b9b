"""A layer of cuDNN as a contestant, whichever of its interfaces is called."""

import torch


def stream():
    return torch.cuda.current_stream().cuda_stream


def sizes_and_strides(x):
    """At least four of each; further axes of one element have the strides of the same layout."""
    sizes, strides = list(x.shape), list(x.stride())
    # Rows of channels are channels-last as much as channels-first, and that is the faster way.
    last = x.dim() == 2 or (x.stride(1) == 1 and x.shape[1] > 1)
    missing = max(0, 4 - x.dim())
    return sizes + [1] * missing, strides + [x.shape[1] if last else 1] * missing


class Train(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, layer, mean, var, momentum, eps):
        y, *saved = layer.train(x, weight, bias, mean, var, momentum, eps)
        ctx.save_for_backward(x, weight, bias, *saved)
        ctx.layer, ctx.eps = layer, eps
        return y

    @staticmethod
    def backward(ctx, dy):
        # A layer knows the strides of x alone: a gradient in another layout has to be made to fit.
        x = ctx.saved_tensors[0]
        if dy.stride() != x.stride():
            dy = torch.empty_like(x).copy_(dy)
        return *ctx.layer.backward(dy, *ctx.saved_tensors, ctx.eps), None, None, None, None, None


def batch_norm(layer_of, momentum, eps):
    """A function as peers.py has them. `layer_of` makes a layer for tensors of x's size, strides and
    type:

      train(x, weight, bias, running_mean, running_var, momentum, eps) -> y, *saved
      backward(dy, x, weight, bias, *saved, eps) -> dx, dweight, dbias
      inference(x, weight, bias, running_mean, running_var, eps) -> y
    """
    layers = {}

    def call(x, mean, var, weight, bias, training):
        key = x.shape, x.stride(), x.dtype
        if key not in layers:
            layers[key] = layer_of(x)
        layer = layers[key]
        if training:
            return Train.apply(x, weight, bias, layer, mean, var, momentum, eps)
        if x.requires_grad:
            raise NotImplementedError("cuDNN has no backward pass of evaluation")
        return layer.inference(x, weight, bias, mean, var, eps)

    return call
