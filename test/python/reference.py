"""Batch normalization written plainly in extended precision, and the error each result may have.

Everything is computed with numpy.longdouble on arrays [N, C, S] and [C]; on x86 that is 11 bits
more than float64, so that float64 results can be judged as well. The bounds are the sum of

- the rounding to the result's own type, half a unit in its last place (0.51 for slack);
- the float32 (or float64) arithmetic per element. y = (x - mean_hi) * scale + shift rounds the
  difference, the scale, the shift, the product and the sum, half a unit each: at most two units of
  |weight * xhat| + |bias|, doubled for slack;
- sums, which are kept in double: count * 2^-52 in the worst order, times 1 + d^2 for the variance,
  d being the distance in standard deviations of the furthest value, which may be the pivot;
- half inputs, and on a GPU those of float32, are summed in float32, up to 32 or 16 values at a time:
  as many times 2^-24 standard deviations for the mean, and for the variance the relative 1e-6 that
  is promised for every type;
- sums of products of gradients, of which up to 16 at a time, 32 of half inputs, may be added in the
  arithmetic of the elements: as many halves of a unit.
"""

from dataclasses import dataclass

import numpy as np
import torch

from helpers import batch_norm, strides

Real = np.longdouble
EPS64 = Real(2) ** -52

_MANTISSA_BITS = {torch.float64: 52, torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
_MIN_EXPONENT = {torch.float64: -1022, torch.float32: -126, torch.float16: -14,
                 torch.bfloat16: -126}


def exact(tensor):
    """The tensor's values; every supported type fits into float64."""
    return tensor.detach().cpu().double().numpy().astype(Real)


def blocks(tensor):
    """The same as [N, C, S]."""
    spatial = int(np.prod(tensor.shape[2:]))
    return exact(tensor).reshape(tensor.shape[0], tensor.shape[1], spatial)


def unit(dtype):
    """One unit in the last place of 1 in the arithmetic used for tensors of this type."""
    return EPS64 if dtype == torch.float64 else Real(2) ** -23


def rounding(values, dtype):
    """What rounding the values to the type may change."""
    exponent = np.frexp(np.abs(values))[1] - 1
    exponent = np.maximum(exponent, _MIN_EXPONENT[dtype])
    return Real(0.51) * np.ldexp(Real(1), exponent - _MANTISSA_BITS[dtype])


@dataclass
class Expected:
    value: np.ndarray
    bound: np.ndarray

    def check(self, name, actual):
        """Asserts that the tensor is within the bound, and names the worst element."""
        assert tuple(actual.shape).count(0) == 0, f"{name} has shape {tuple(actual.shape)}"
        found = exact(actual).reshape(self.value.shape)
        error = np.abs(found - self.value)
        excess = np.where(np.isnan(error), np.inf, error / self.bound)
        worst = np.unravel_index(np.argmax(excess), excess.shape)
        assert excess[worst] <= 1, (
            f"{name}[{', '.join(map(str, worst))}] is {found[worst]:.12g}, expected "
            f"{self.value[worst]:.12g}: {float(excess[worst]):.3g} times the allowed error of "
            f"{float(np.broadcast_to(self.bound, excess.shape)[worst]):.3g}")


class Normalization:
    """A batch normalized by its own statistics, or by the given mean and variance."""

    def __init__(self, input, weight=None, bias=None, mean=None, var=None, eps=1e-5):
        self.dtype = input.dtype
        self.x = blocks(input)
        self.count = self.x.shape[0] * self.x.shape[2]
        self.training = mean is None
        self.mean = self.x.mean(axis=(0, 2)) if self.training else exact(mean)
        centered = self.x - _channels(self.mean)
        self.var = (centered**2).mean(axis=(0, 2)) if self.training else exact(var)
        self.invstd = 1 / np.sqrt(self.var + Real(eps))
        self.xhat = centered * _channels(self.invstd)
        ones = np.ones(self.x.shape[1], Real)
        self.weight = ones if weight is None else exact(weight)
        self.bias = 0 * ones if bias is None else exact(bias)
        self.weight_dtype = weight.dtype if weight is not None else None
        self.bias_dtype = bias.dtype if bias is not None else None

        # Errors of the batch's mean and, relatively, variance, and that of xhat that comes with them.
        self.half = self.dtype in (torch.bfloat16, torch.float16)
        floats = 32 if self.half else 16 if input.is_cuda and self.dtype == torch.float32 else 0
        self.mean_error = 0 * ones
        if self.training:
            std = np.sqrt(self.var)
            spread = np.abs(centered).max(axis=(0, 2)) / np.where(std == 0, 1, std)
            self.var_error = self.count * EPS64 * (1 + spread**2)
            if floats:
                self.var_error = self.var_error + Real(1e-6)
                self.mean_error = floats * Real(2) ** -24 * std
        else:
            self.var_error = 4 * EPS64 * np.ones_like(self.mean)
        self.xhat_error = _channels(self.var_error) * (np.abs(self.xhat) + 1) \
            + _channels((2 * EPS64 * np.abs(self.mean) + self.mean_error) * self.invstd)

    def output(self):
        w, b = np.abs(_channels(self.weight)), np.abs(_channels(self.bias))
        value = _channels(self.weight) * self.xhat + _channels(self.bias)
        arithmetic = 4 * unit(self.dtype) * (w * np.abs(self.xhat) + b + 1)
        return Expected(value, rounding(value, self.dtype) + arithmetic + w * self.xhat_error)

    def gradients(self, grad_output):
        """Expected gradients of input, weight and bias, as Ioffe & Szegedy (2015) have them."""
        dy = blocks(grad_output)
        along_one, along_xhat = _mean(dy), _mean(dy * self.xhat)
        size_one, size_xhat = _mean(np.abs(dy)), _mean(np.abs(dy * self.xhat))
        scale = self.weight * self.invstd
        error = (16 if self.half else 8) * unit(self.dtype) + self.count * EPS64
        inexact_xhat = (np.abs(dy) * self.xhat_error).mean(axis=(0, 2))

        if self.training:
            value = dy - _channels(along_one) - self.xhat * _channels(along_xhat)
            size = np.abs(dy) + _channels(size_one) + np.abs(self.xhat) * _channels(size_xhat)
            bound = (error + 4 * unit(self.dtype)) * size \
                + self.xhat_error * _channels(size_xhat) \
                + np.abs(self.xhat) * _channels(inexact_xhat)
        else:
            value, bound = dy, 4 * unit(self.dtype) * np.abs(dy)
        bound = bound + _channels(self.var_error) * np.abs(value)
        grad_input = _channels(scale) * value
        grad_input_bound = _channels(np.abs(scale)) * bound + rounding(grad_input, self.dtype)
        return (Expected(grad_input, grad_input_bound),
                self._parameter(along_xhat, error * size_xhat + inexact_xhat, self.weight_dtype),
                self._parameter(along_one, error * size_one, self.bias_dtype))

    def _parameter(self, mean, mean_error, dtype):
        if dtype is None:
            return None
        value = self.count * mean
        return Expected(value, self.count * mean_error + rounding(value, dtype))

    def running(self, mean, var, momentum):
        """Expected running statistics after this batch, from those before it."""
        unbiased = self.var * self.count / Real(self.count - 1)
        batch_error = self.count * EPS64 * np.sqrt(self.var) + 2 * EPS64 * np.abs(self.mean) \
            + self.mean_error
        return (self._tracked(mean, self.mean, batch_error, momentum),
                self._tracked(var, unbiased, self.var_error * unbiased, momentum))

    @staticmethod
    def _tracked(old, batch, batch_error, momentum):
        momentum = Real(momentum)
        value = (1 - momentum) * exact(old) + momentum * batch
        size = np.abs((1 - momentum) * exact(old)) + np.abs(momentum * batch)
        return Expected(value, rounding(value, old.dtype) + np.abs(momentum) * batch_error
                        + 4 * EPS64 * size)


def _channels(vector):
    return vector[:, None]


def _mean(values):
    return values.mean(axis=(0, 2))


def expect_all(x, dy, weight, bias, mean, var, *, training, momentum=0.1, eps=1e-5):
    """By name, what check_all() holds the results of such a call against."""
    given = {} if training else dict(mean=mean, var=var)
    truth = Normalization(x, weight, bias, eps=eps, **given)
    gradients = zip(("grad_input", "grad_weight", "grad_bias"), truth.gradients(dy), strict=True)
    expected = {"output": truth.output(), **dict(gradients)}
    if training:
        expected["running_mean"], expected["running_var"] = truth.running(mean, var, momentum)
    return expected


def check_all(x, dy, weight, bias, mean, var, counter=None, *, training, momentum=0.1, eps=1e-5,
              expected=None):
    """Output, gradients, running statistics, formats and types of one call against the formula, or
    what expect_all() has made of it before."""
    expected = expected or expect_all(x, dy, weight, bias, mean, var, training=training,
                                      momentum=momentum, eps=eps)
    count = 0 if counter is None else counter.item()
    given = {"grad_input": x, "grad_weight": weight, "grad_bias": bias}
    leaves = {name: t.detach().requires_grad_() for name, t in given.items() if t is not None}
    x = leaves["grad_input"]
    before = mean.clone(), var.clone()
    output = batch_norm(x, leaves.get("grad_weight"), leaves.get("grad_bias"), mean, var, training,
                        momentum, eps, num_batches_tracked=counter)
    gradients = torch.autograd.grad(output, list(leaves.values()), dy)

    expected["output"].check("output", output)
    assert strides(output) == strides(torch.empty_like(x))
    if training or weight is not None:
        assert strides(gradients[0]) == strides(torch.empty_like(x))
    for name, gradient in zip(leaves, gradients, strict=True):
        expected[name].check(name, gradient)
        assert gradient.dtype == given[name].dtype
    if training:
        expected["running_mean"].check("running_mean", mean)
        expected["running_var"].check("running_var", var)
    else:
        assert torch.equal(mean, before[0]) and torch.equal(var, before[1])
    if counter is not None:
        assert counter == count + int(training)
