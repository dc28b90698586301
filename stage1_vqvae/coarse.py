"""The coarse level: a trunk that was trained to agree on two views of an image, and residual codes of its map.

The codes come after the training, not within it: quantised inside the loop the same network carries much less
(docs/experiments.md). Each channel of the map is standardised first, so that no few channels own the codebook.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit_datasets.card import Card

from .networks import trunk, trunk_width
from .quantizer import Quantizer


class Coarse(nn.Module):
    """Normalised images (B, C, H, W) -> latents (B, D, h, w) with mean 0 and variance 1 in each channel."""

    mean: Tensor  # (D, 1, 1) of the trunk's map over the training images
    deviation: Tensor  # (D, 1, 1)

    def __init__(self, card: Card) -> None:
        super().__init__()
        settings = card.coarse
        self.size, self.grid = card.coarse_size, card.coarse_size // settings.stride
        dim = trunk_width(stride=settings.stride, width=settings.width)
        self.trunk = trunk(
            channels=card.image.channels, stride=settings.stride, width=settings.width, normed=False
        ).requires_grad_(False)
        self.quantizer = Quantizer(settings.codebook_size, dim, depth=settings.depth)
        self.register_buffer("mean", torch.zeros(dim, 1, 1))
        self.register_buffer("deviation", torch.ones(dim, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Latents of normalised `images`."""
        raw: Tensor = self.trunk(shrink(images, self.size))
        return (raw.float() - self.mean) / self.deviation


def shrink(images: Tensor, size: int) -> Tensor:
    """`images` (B, C, H, H) at `size` px, without aliasing; as they are where they are no larger."""
    if images.shape[-1] <= size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
