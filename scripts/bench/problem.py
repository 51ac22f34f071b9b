"""The tensors of a case, what the contestants do with them, and whether that is right."""

import torch
from peers import EPS

GRADIENTS = ["grad_input", "grad_weight", "grad_bias"]
RETURNED = {"train": ["output"], "eval": ["output"], "backward": GRADIENTS,
            "eval_backward": GRADIENTS, "train_step": ["output", *GRADIENTS]}


class Problem:
    def __init__(self, case, device):
        self.case = case
        self.dtype = getattr(torch, case.dtype)
        self.training = case.operation not in ("eval", "eval_backward")
        self.backward = "grad_input" in RETURNED[case.operation]
        channels = case.shape[1]
        torch.manual_seed(0)
        self.x = self._tensor(device)
        self.dy = self._tensor(device) if self.backward else None
        # Parameters of half inputs are float32, as automatic mixed precision has them.
        wide = torch.float64 if self.dtype == torch.float64 else torch.float32
        options = dict(dtype=wide, device=device)
        self.weight = torch.rand(channels, **options) + 0.5
        self.bias = torch.randn(channels, **options)
        self.mean = torch.zeros(channels, **options)
        self.var = torch.ones(channels, **options)
        if self.backward:
            for tensor in (self.x, self.weight, self.bias):
                tensor.requires_grad_()

    def _tensor(self, device):
        x = torch.empty(self.case.shape, dtype=self.dtype, device=device).normal_(0.5, 2)
        if self.case.layout == "channels_last":
            x = x.movedim(1, -1).contiguous().movedim(-1, 1)
        return x

    def floor(self):
        """The same traffic without any work: a copy, backward the sum of two tensors."""
        results = []
        with torch.no_grad():
            if "output" in RETURNED[self.case.operation]:
                results.append(torch.empty_like(self.x).copy_(self.x))
            if self.backward:
                results.append(torch.add(self.x, self.dy))
        return results

    def copy(self):
        """The same with tensors of its own."""
        return Problem(self.case, self.x.device.type)

    def contestant(self, batch_norm):
        """A call without arguments that allocates what it returns. Every contestant has running
        statistics of its own: updating those of another one's kept graph would make that raise."""
        mean, var = self.mean.clone(), self.var.clone()
        leaves = (self.x, self.weight, self.bias)

        def forward():
            return batch_norm(self.x, mean, var, self.weight, self.bias, self.training)

        def step():
            output = forward()
            return (output, *torch.autograd.grad(output, leaves, self.dy))

        if self.case.operation == "train_step":
            return step
        if self.backward:
            output = forward()
            return lambda: torch.autograd.grad(output, leaves, self.dy, retain_graph=True)
        return lambda: (forward(),)

    def errors(self, results):
        """The worst error of output and grad_input against float64, in units of what a correctly
        rounded float32 computation may be off. Looks at up to eight channels."""
        found = dict(zip(RETURNED[self.case.operation], results, strict=True))
        channels = sorted({round(i * (self.case.shape[1] - 1) / 7) for i in range(8)})
        axes = [0, *range(2, len(self.case.shape))]
        size = [1, -1] + [1] * (len(self.case.shape) - 2)

        def pick(tensor):
            return tensor.detach()[:, channels].double()

        def vector(tensor):
            return tensor.detach()[channels].double().view(size)

        x, weight, bias = pick(self.x), vector(self.weight), vector(self.bias)
        if self.training:
            mean = x.mean(axes, keepdim=True)
            var = (x - mean).square().mean(axes, keepdim=True)
        else:
            mean, var = vector(self.mean), vector(self.var)
        invstd = (var + EPS).rsqrt()
        xhat = (x - mean) * invstd
        unit = torch.finfo(torch.float64 if self.dtype == torch.float64 else torch.float32).eps

        def worst(actual, expected, magnitude):
            # Half results are also rounded to their own type, by half a unit.
            allowed = 0.51 * torch.finfo(self.dtype).eps * expected.abs() + 4 * unit * magnitude
            difference = (pick(actual) - expected).abs()
            # Where dy is 0 in evaluation, nothing is allowed.
            return difference.div(allowed).where(difference != 0, 0).max().item()

        errors = {}
        if "output" in found:
            errors["output"] = worst(found["output"], xhat * weight + bias,
                                     (xhat * weight).abs() + bias.abs() + 1)
        if "grad_input" in found:
            dy = pick(self.dy)
            scale = weight * invstd
            expected, magnitude = dy, dy.abs()
            if self.training:
                product = dy * xhat
                expected = (dy - dy.mean(axes, keepdim=True)
                            - xhat * product.mean(axes, keepdim=True))
                magnitude = (dy.abs() + dy.abs().mean(axes, keepdim=True)
                             + xhat.abs() * product.abs().mean(axes, keepdim=True))
            errors["grad_input"] = worst(found["grad_input"], scale * expected, scale * magnitude)
        return errors
