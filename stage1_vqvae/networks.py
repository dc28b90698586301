"""Encoder and decoder: strided convolutions down to the code grid, residual blocks there, and the way back.

Where the time goes on a CPU is at full and half resolution, not where the weights are. So the first convolution
already strides by two, the last step back to full resolution is a transposed convolution straight to pixels, channels
grow as resolution falls (width / 2, width, 2 width), and half resolution goes without GroupNorm. GroupNorm instead of
BatchNorm, because an image's codes must not depend on the other images of its batch.
"""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn


def channels_at(stride: int, width: int) -> list[int]:
    """Channels at strides 2, 4, 8, … up to `stride`.

    >>> channels_at(16, 64)
    [32, 64, 128, 128]
    """
    return [max(1, width // 2), width, 2 * width, 2 * width][: int(math.log2(stride))]


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
    return nn.GroupNorm(max(groups, default=1), channels)
