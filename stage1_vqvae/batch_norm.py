"""BatchNorm over the batch of all processes, on any device (torch's own SyncBatchNorm runs on GPUs only).

Ioffe & Szegedy, "Batch Normalization" (2015), Algorithm 1; mean and variance in two passes, as a difference of large
sums would lose their digits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .distributed import World


class GlobalBatchNorm(nn.Module):
    """Takes over the weights, averages and names of a BatchNorm; the same as that one outside training."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, local: _BatchNorm) -> None:
        super().__init__()
        self.eps, self.momentum = local.eps, local.momentum
        self.weight, self.bias = local.weight, local.bias
        for name, value in local.named_buffers(recurse=False):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, …) -> the same, each channel with mean 0 and variance 1 over all processes, scaled and shifted."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        values = x.float()
        over, wide = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        count = values.new_tensor([values.numel() / values.shape[1]])
        sums, counts = _Summed.apply(torch.cat([values.sum(over), count])).split([values.shape[1], 1])
        mean = sums / counts.detach()
        centred = values - mean.view(wide)
        variance = _Summed.apply(centred.square().sum(over)) / counts.detach()
        with torch.no_grad():
            share = float(self.momentum or 0.0)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance * counts / (counts - 1), share)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        normed: Tensor = centred * scale.view(wide) + self.bias.view(wide)
        return normed.to(x.dtype)


def over_all_processes(module: nn.Module, world: World) -> None:
    """Make every BatchNorm within `module` one over all processes; in a world of one they stay as they are."""
    if world.size == 1:
        return
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GlobalBatchNorm(child))
        else:
            over_all_processes(child, world)


class _Summed(torch.autograd.Function):
    """Sum over all processes, of values and of gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
