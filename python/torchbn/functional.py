"""The public operators as Python functions, with their documentation."""

import torch


def batch_norm(input: torch.Tensor, weight: torch.Tensor | None = None,
               bias: torch.Tensor | None = None, running_mean: torch.Tensor | None = None,
               running_var: torch.Tensor | None = None, training: bool = False,
               momentum: float | None = 0.1, eps: float = 1e-5, *,
               num_batches_tracked: torch.Tensor | None = None) -> torch.Tensor:
    """Batch normalization (Ioffe & Szegedy 2015, https://arxiv.org/abs/1502.03167):

        y = (x - mean) / sqrt(var + eps) * weight + bias, per channel.

    In training mean and var are those of the batch (the variance biased), and the running statistics
    are updated in place. In evaluation they are the running statistics. The result has the input's
    shape, dtype and memory format. Differentiable in input, weight and bias.

    The order of the first five arguments is torch.batch_norm's, not torch.nn.functional.batch_norm's,
    which puts the running statistics first.

    Args:
        input: [N, C, ...], rank 2 or more; float32, float64, bfloat16 or float16.
        weight, bias: [C] each; None: 1 and 0.
        running_mean, running_var: [C] each, both or neither; needed in evaluation. Updated in
            training: new = (1 - momentum) * old + momentum * batch, with the unbiased variance.
        training: whether to use the statistics of the batch.
        momentum: weight of the new batch, any finite number; None: the cumulative average,
            1 / num_batches_tracked, for which running statistics need the counter. Ignored in
            evaluation.
        eps: added to the variance; finite and not negative.
        num_batches_tracked: [] int64; incremented by one in training, ignored in evaluation.

    All tensors are on the input's device, and none is sparse. weight, bias and the running statistics
    have the input's dtype or, for the half types, float32, each independently. Running statistics
    must not require grad. What training updates may be strided views, but no two of its elements may
    share memory, nor may one share it with input, weight or bias. An input without elements leaves
    it untouched.

    Raises:
        RuntimeError: before anything is modified, when an argument does not fit, and in training
            when there is only one value per channel.
        ValueError: on a GPU, where an environment variable, TORCHBN_CUDA_KERNEL or
            TORCHBN_CUDA_LEFT_FREE, is set to what it can't be.
    """
    return torch.ops.torchbn.batch_norm(input, weight, bias, running_mean, running_var, training,
                                        momentum, eps, num_batches_tracked=num_batches_tracked)
