"""The networks of stage 1.

Encoder and decoder: strided convolutions down to the code grid, residual blocks there, and the way back.

Where the time goes on a CPU is at full and half resolution, not where the weights are. So the first convolution
already strides by two, the last step back to full resolution is a transposed convolution straight to pixels, channels
grow as resolution falls (width / 2, width, 2 width), and half resolution goes without GroupNorm. GroupNorm instead of
BatchNorm, because an image's codes must not depend on the other images of its batch.

Trunk: the residual network of the coarse level (He et al. 2016, basic blocks). It learns best with BatchNorm, so it is
trained with it and then frozen: `fold` puts the averages of the training into the weights of the same network without.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

SLOW_BELOW = 16  # channels a group, see `Norm`


def channels_at(stride: int, width: int) -> list[int]:
    """Channels at strides 2, 4, 8, … up to `stride`.

    >>> channels_at(16, 64)
    [32, 64, 128, 128]
    """
    steps = int(math.log2(stride))
    return [max(1, width // 2), width, *[2 * width] * steps][:steps]


def encoder(*, channels: int, stride: int, width: int, blocks: int, dim: int) -> nn.Sequential:
    """(B, C, H, W) -> latents (B, D, H / stride, W / stride)."""
    widths = channels_at(stride, width)
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, stride=2, padding=1)]
    for step, (before, after) in enumerate(itertools.pairwise(widths)):
        if step > 0:
            layers.append(norm(before))
        layers += [nn.SiLU(), nn.Conv2d(before, after, 4, stride=2, padding=1)]
    layers += [ResidualBlock(widths[-1]) for _ in range(blocks)]
    layers += [norm(widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], dim, 1)]
    return nn.Sequential(*layers)


def decoder(*, channels: int, stride: int, width: int, blocks: int, dim: int) -> nn.Sequential:
    """Codes (B, D, h, w) -> (B, C, h stride, w stride)."""
    widths = channels_at(stride, width)[::-1]
    layers: list[nn.Module] = [nn.Conv2d(dim, widths[0], 3, padding=1)]
    layers += [ResidualBlock(widths[0]) for _ in range(blocks)]
    for before, after in itertools.pairwise(widths):
        # A 1x1 convolution and a pixel shuffle: cheaper than a transposed convolution where both are wide.
        layers += [norm(before), nn.SiLU(), nn.Conv2d(before, 4 * after, 1), nn.PixelShuffle(2)]
    layers += [nn.SiLU(), nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), 3x3, at one width (B, c, h, w) -> (B, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine `x` (B, c, h, w) at its own resolution."""
        refined: Tensor = x + self.body(x)
        return refined


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with up to 8 groups of at least 4 channels: a group of one value would be normalised to nothing."""
    groups = [g for g in range(1, 9) if channels % g == 0 and channels // g >= 4]
    return Norm(max(groups, default=1), channels)


class Norm(nn.GroupNorm):
    """GroupNorm that computes in float32 where torch's kernel for bfloat16 is slow; on a GPU autocast sees to that."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c, h, w)."""
        # On a CPU, 8 channels a group, 16 images of 64x16x16, forward and backward: 2.5 ms in bfloat16, 0.5 in float32
        # with the cast. With 16 channels a group there is nothing between them.
        narrow = self.num_channels < SLOW_BELOW * self.num_groups
        return super().forward(x.float() if narrow else x)


def trunk_width(*, stride: int, width: int) -> int:
    """Channels of a trunk's map: `width` at stride 2, twice as many after every further halving."""
    return width * stride // 2


def trunk(*, channels: int, stride: int, width: int, normed: bool) -> nn.Sequential:
    """(B, C, H, W) -> (B, width stride / 2, H / stride, W / stride), non-negative; with BatchNorm where `normed`."""
    layers: list[nn.Module] = [Convolution(channels, width, 3, stride=2, normed=normed), nn.ReLU()]
    for step in range(int(math.log2(stride)) - 1):
        layers.append(HalvingBlock(width * 2**step, width * 2 ** (step + 1), normed=normed))
    return nn.Sequential(*layers)


class HalvingBlock(nn.Module):
    """relu(conv(relu(conv(x))) + conv1x1(x)), half as many pixels: (B, c, h, w) -> (B, c', h / 2, w / 2)."""

    def __init__(self, before: int, after: int, *, normed: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            Convolution(before, after, 3, stride=2, normed=normed),
            nn.ReLU(),
            Convolution(after, after, 3, stride=1, normed=normed),
        )
        self.skip = Convolution(before, after, 1, stride=2, normed=normed)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the resolution of `x`."""
        return torch.relu(self.body(x) + self.skip(x))


class Convolution(nn.Module):
    """A convolution with BatchNorm behind it, or with a bias in its place."""

    def __init__(self, before: int, after: int, kernel: int, *, stride: int, normed: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=not normed)
        self.norm = nn.BatchNorm2d(after) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, h, w) -> (B, c', h / stride, w / stride)."""
        x = self.convolution(x)
        return self.norm(x) if self.norm else x


@torch.no_grad()
def fold(trained: nn.Sequential, frozen: nn.Sequential) -> None:
    """Make the trunk `frozen`, without BatchNorm, compute what `trained`, with it, computes in evaluation mode."""
    sources, targets = ([m for m in net.modules() if isinstance(m, Convolution)] for net in (trained, frozen))
    for source, target in zip(sources, targets, strict=True):
        norm, bias = source.norm, target.convolution.bias
        assert norm is not None, "a trunk without BatchNorm has nothing to fold"
        assert norm.running_mean is not None, "BatchNorm without averages"
        assert norm.running_var is not None, "BatchNorm without averages"
        assert bias is not None, "a trunk without BatchNorm has biases"
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # (c',)
        target.convolution.weight.copy_(source.convolution.weight * scale[:, None, None, None])
        bias.copy_(norm.bias - norm.running_mean * scale)
