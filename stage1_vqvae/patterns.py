"""Which small patterns a picture is made of, and in which part of it: strokes, edges, textures.

After Coates, Ng & Lee, "An analysis of single-layer networks in unsupervised feature learning" (2011): patches of equal
contrast, whitened, are compared to k-means centres, and each centre answers by how much nearer it is than the average
one. What two views agree on leaves out much of this, and a classifier with many labels gains from having both
(docs/experiments.md).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from toolkit_datasets.card import Card

from .coarse import shrink
from .kmeans import kmeans
from .transform import TransformLevel

CELLS = 2  # along each side of a place: the patterns of each are averaged by themselves
PATCH, STRIDE = 6, 2  # px
AT_ONCE = 50  # images: of 64 px with 64 patterns 40 MB
CONTRAST_FLOOR = 0.0025  # of a patch's variance, where 1 is that of the training images: flat patches stay flat
WHITENING_FLOOR = 0.1  # of a component's variance, where patches have 1 in the mean


class Patterns(nn.Module):
    """Normalised images (B, C, H, W), H >= 6 -> what each of K patterns answers, averaged over g x g cells."""

    centre: Tensor  # (C 36,) mean patch
    whitener: Tensor  # (C 36, C 36)
    patterns: Tensor  # (K, C 36) whitened patches

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        dim = channels * PATCH**2
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("whitener", torch.eye(dim))
        self.register_buffer("patterns", F.normalize(torch.randn(count, dim)))

    def forward(self, images: Tensor, *, grid: int) -> Tensor:
        """Mean answers (B, K, grid, grid) >= 0."""
        return torch.cat([self._answers(part, grid) for part in torch.split(images, AT_ONCE)])

    def _answers(self, images: Tensor, grid: int) -> Tensor:
        """The patches are never cut out: whitening is a convolution, and so is the product with all patterns."""
        filters = self.whitener.view(len(self.centre), -1, PATCH, PATCH)  # symmetric: rows are columns
        white = F.conv2d(images, filters, stride=STRIDE)  # (B, C 36, h, w)
        mean = F.avg_pool2d(images.mean(1, keepdim=True), PATCH, STRIDE)  # (B, 1, h, w) of each patch
        variance = F.avg_pool2d(images.square().mean(1, keepdim=True), PATCH, STRIDE) - mean.square()
        white.addcmul_(mean, _wide(self.whitener.sum(0)), value=-1)
        white.mul_((variance.clamp_min(0) + CONTRAST_FLOOR).rsqrt())
        white.sub_(_wide(self.centre @ self.whitener))
        squared = F.conv2d(white, -2 * self.patterns[:, :, None, None], self.patterns.square().sum(1))  # (B, K, h, w)
        distances = squared.add_(white.square().sum(1, keepdim=True)).clamp_min_(0).sqrt_()
        answers = distances.neg_().sub_(distances.mean(1, keepdim=True)).clamp_min_(0)
        return F.adaptive_avg_pool2d(answers, grid)

    @torch.no_grad()
    def fit(self, patches: Tensor, *, generator: torch.Generator) -> None:
        """Learn whitening and patterns from `patches` (N, C 36) of normalised images."""
        patches = even_contrast(patches)
        self.centre.copy_(patches.mean(0))
        variances, axes = torch.linalg.eigh(torch.cov(patches.t().cpu().double(), correction=0))
        self.whitener.copy_((axes * (variances.clamp_min(0) + WHITENING_FLOOR).rsqrt()) @ axes.t())
        white = F.normalize((patches - self.centre) @ self.whitener)  # else strong patches would take all centres
        self.patterns.copy_(F.normalize(kmeans(white, len(self.patterns), generator=generator)[0]))


class PatternLevel(TransformLevel):
    """Channels are 4 for each pattern, one for each quarter of a place.

    Never those of the mirror image too: a slope and its opposite would become one.
    """

    name = "patterns"

    def __init__(self, card: Card) -> None:
        super().__init__(card, CELLS**2 * card.coarse.patterns)
        self.patterns = Patterns(card.image.channels, card.coarse.patterns)

    def measured(self, images: Tensor) -> Tensor:
        """See `TransformLevel.measured`."""
        return F.pixel_unshuffle(self.patterns(shrink(images, self.size), grid=CELLS * self.grid), CELLS)


def some_patches(images: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """`count` patches of each of `images` (B, C, H, W), at random places: (B, C 36, 1, count)."""
    patches = F.unfold(images, PATCH, stride=1)  # (B, C 36, P)
    places = torch.randint(patches.shape[2], (len(images), 1, count), generator=generator, device=images.device)
    return patches.gather(2, places.expand(-1, patches.shape[1], -1)).unsqueeze(2)


def even_contrast(patches: Tensor) -> Tensor:
    """Each of `patches` (..., d) with mean 0, and with variance 1 where it is no flat one."""
    variance, mean = torch.var_mean(patches, -1, keepdim=True, correction=0)
    return (patches - mean) * (variance + CONTRAST_FLOOR).rsqrt()


def _wide(values: Tensor) -> Tensor:
    """(c,) -> (c, 1, 1)."""
    return values[:, None, None]
