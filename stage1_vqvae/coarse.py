"""The coarse level: what two views of a picture agree on, which is mostly what it shows, in a few dozen bytes.

The codes come after the training, not within it: quantised inside the loop the same network carries much less
(docs/experiments.md). The average over the picture is coded, since that is what a classifier reads.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from toolkit_datasets.card import Card

from .networks import trunk, trunk_width
from .transform import TransformLevel


class Coarse(TransformLevel):
    """Channels are those of a trunk that comes from the phase `agree`, averaged over g x g cells."""

    name = "coarse"

    def __init__(self, card: Card) -> None:
        settings = card.coarse
        super().__init__(card, trunk_width(stride=settings.stride, width=settings.width))
        self.mirrored = card.views.flip
        self.trunk = trunk(
            channels=card.image.channels, stride=settings.stride, width=settings.width, normed=False
        ).requires_grad_(False)

    def measured(self, images: Tensor) -> Tensor:
        """See `TransformLevel.measured`. Where left and right do not matter (`views.flip`), of the mirror image too."""
        small = shrink(images, self.size)
        shown: Tensor = self.trunk(small)
        if self.mirrored:
            shown = (shown + self.trunk(small.flip(3)).flip(3)) / 2
        return F.adaptive_avg_pool2d(shown.float(), self.grid)


def shrink(images: Tensor, size: int) -> Tensor:
    """`images` (B, C, H, H) at `size` px, without aliasing; as they are where they are no larger."""
    if images.shape[-1] <= size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
