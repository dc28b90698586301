"""The coarse level: a trunk that was trained to agree on two views of an image, and residual codes of its map.

The codes come after the training, not within it: quantised inside the loop the same network carries much less
(docs/experiments.md). Before that the map is whitened: its few strongest directions would own the codebook otherwise,
and what tells classes apart is often not among them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit_datasets.card import Card

from .networks import trunk, trunk_width
from .quantizer import Quantizer

FLOOR = 1e-5
"""Smallest variance of a principal component, as a share of the largest one's; one below it is noise and stays 0."""


class Coarse(nn.Module):
    """Normalised images (B, C, H, W) -> latents (B, D, h, w), uncorrelated and of variance 1 over the training images.

    Nothing in here learns by gradients: the trunk comes from the phase `agree`, the rest is fitted to its map.
    """

    def __init__(self, card: Card) -> None:
        super().__init__()
        settings = card.coarse
        self.size, self.grid = card.coarse_size, card.coarse_size // settings.stride
        channels = trunk_width(stride=settings.stride, width=settings.width)
        dim = min(settings.dim, channels)
        self.trunk = trunk(
            channels=card.image.channels, stride=settings.stride, width=settings.width, normed=False
        ).requires_grad_(False)
        self.whiten = nn.Conv2d(channels, dim, 1).requires_grad_(False)
        self.quantizer = Quantizer(settings.codebook_size, dim, depth=settings.depth)

    def forward(self, images: Tensor) -> Tensor:
        """Latents of normalised `images`."""
        latents: Tensor = self.whiten(self.map(images)).float()
        return latents

    def map(self, images: Tensor) -> Tensor:
        """The trunk's map (B, c, h, w) of normalised `images`."""
        found: Tensor = self.trunk(shrink(images, self.size))
        return found

    @torch.no_grad()
    def fit_whitening(self, points: Tensor) -> None:
        """Whiten by the principal components of `points` (N, c) of the map, each channel standardised first.

        Signs are fixed, so that machines whose solvers differ in them still give the same codes.
        """
        deviation, mean = torch.std_mean(points, 0, correction=0)
        fires = deviation > 1e-6 * deviation.max()  # a channel that never does is left out
        scale = torch.where(fires, 1 / deviation, 0.0)
        standard = ((points - mean) * scale).cpu().double()
        variances, axes = torch.linalg.eigh(torch.cov(standard.t(), correction=0).reshape(points.shape[1], -1))
        dim = self.whiten.out_channels
        variances, axes = variances.flip(0)[:dim], axes.flip(1)[:, :dim]  # largest first
        axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
        strength = torch.where(variances > FLOOR * variances[0], variances.clamp_min(1e-30).rsqrt(), 0.0)
        whitener = (axes * strength).t().to(points) * scale  # (D, c)
        self.whiten.weight.copy_(whitener[:, :, None, None])
        assert self.whiten.bias is not None, "the map's mean is taken off by the bias"
        self.whiten.bias.copy_(-whitener @ mean)


def shrink(images: Tensor, size: int) -> Tensor:
    """`images` (B, C, H, H) at `size` px, without aliasing; as they are where they are no larger."""
    if images.shape[-1] <= size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
