"""Levels whose codes come after the training: what an image is measured to be, as transform codes.

Each codebook lies in a few principal components, as many as its bits can tell apart, and the sum of the codes is the
vector. Five thousand images are enough to learn them, which residual codes in all components at once are not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from toolkit_datasets.card import Card

from .kmeans import kmeans
from .nearest import nearest
from .quantizer import Quantizer

FLOOR = 1e-6
"""Smallest variance of a principal component, as a share of the largest one's; one below it is noise and not coded."""


class TransformLevel(nn.Module, ABC):
    """Normalised images (B, C, H, W) -> latents (B, D, g, g); over the training each channel has mean 0 and variance 1.

    Nothing in here learns by gradients.
    """

    name: ClassVar[str]
    centre: Tensor  # (D, 1, 1) mean of each channel over the training images
    scale: Tensor  # (D, 1, 1) one over its deviation; 0 for a channel that never fires

    def __init__(self, card: Card, dim: int) -> None:
        super().__init__()
        self.size, self.grid = card.coarse_size, card.coarse.grid
        self.register_buffer("centre", torch.zeros(dim, 1, 1))
        self.register_buffer("scale", torch.ones(dim, 1, 1))
        self.quantizer = Quantizer(card.coarse.codebook_size, dim, depth=card.coarse.depth)

    @abstractmethod
    def measured(self, images: Tensor) -> Tensor:
        """The channels of normalised `images` as they come, (B, D, g, g) float32."""

    def forward(self, images: Tensor) -> Tensor:
        """Latents of normalised `images`."""
        return (self.measured(images) - self.centre) * self.scale

    @torch.no_grad()
    def fit(self, points: Tensor, *, generator: torch.Generator) -> None:
        """Standardise the channels by `points` (N, D) as they come, and put the codebooks on the outcome.

        Signs of the components are fixed, so that machines whose solvers differ in them still give the same codes.
        """
        deviation, mean = torch.std_mean(points, 0, correction=0)
        fires = deviation > 1e-6 * deviation.max()
        scale = torch.where(fires, 1 / deviation, 0.0)
        self.centre.copy_(mean[:, None, None])
        self.scale.copy_(scale[:, None, None])
        standard = (points - mean) * scale
        axes = principal_axes(standard)
        left = standard @ axes
        floor = FLOOR * float(left.var(0, correction=0).max())
        for depth in range(self.quantizer.depth):
            variances = left.var(0, correction=0).double().cpu()
            chosen = next_components(
                variances, codes=self.quantizer.depth - depth, bits=math.log2(self.quantizer.codes), floor=floor
            ).to(left.device)
            centres, counts = kmeans(left[:, chosen].contiguous(), self.quantizer.codes, generator=generator)
            self.quantizer.place(depth, (centres @ axes[:, chosen].t()) * fires, counts)
            left[:, chosen] -= centres[nearest(left[:, chosen].contiguous(), centres)]


def principal_axes(points: Tensor) -> Tensor:
    """Orthonormal axes (D, D) of `points` (N, D), that of the largest variance first, the largest entry positive."""
    _, axes = torch.linalg.eigh(torch.cov(points.t().cpu().double(), correction=0).reshape(points.shape[1], -1))
    axes = axes.flip(1)
    signs = axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return torch.mul(axes, signs).to(points)


def next_components(variances: Tensor, *, codes: int, bits: float, floor: float = 0.0) -> Tensor:
    """Which components the next of `codes` codes of so many `bits` should take: those of most variance.

    Reverse water-filling (Cover & Thomas, "Elements of Information Theory", 10.3): the best use of a number of bits
    leaves the same error D in each component above D, at half the log2 of its variance over D in bits, and drops the
    rest. The code takes components until they are worth its bits.

    Args:
        variances: (D,) of what is left to code.
        codes: how many are still to come, this one included.
        bits: of each code.
        floor: components of no more variance are not coded.

    Returns:
        Their places, long, at least one.

    >>> next_components(torch.tensor([1.0, 64.0, 16.0, 4.0]), codes=2, bits=3.0).tolist()
    [1]
    """
    ordered, places = variances.sort(descending=True, stable=True)
    logs = ordered.clamp_min(max(floor, 1e-30)).log2()
    count = torch.arange(1, len(logs) + 1, dtype=logs.dtype)
    levels = (logs.cumsum(0) - 2 * codes * bits) / count  # log2 D, were so many components coded
    coded = max(1, int((logs > levels).sum()))  # true for the first ones, then false for all others
    rates = (logs[:coded] - levels[coded - 1]) / 2
    within = rates.cumsum(0) - rates / 2 <= bits  # most of it at least
    return places[: max(1, int(within.sum()))]
