"""What is unusual in an image, pixel by pixel and in one number, by a model that has learned from healthy ones.

A model rebuilds badly what it has never seen, and calls it by codes that are rare. Both are maps of the image:

* deviation: the absolute error, blurred a little, less what it is at that place in healthy images, over its standard
  deviation there. A fold of the cortex is always rebuilt badly, so a plain error map would show folds.
* surprise: -log p of the codes (surprise.py), spread over the pixels that each one stands for.

An image's score is the mean of the highest pixels of a map, within the foreground where there is one: a lesion is a
small part of a slice, and the mean over all of it would say how sharp the whole picture is. The numbers of `Recipe`
were chosen on lesions put into other people's scans than those that docs/anomaly.md reports.

Letters: B images, C channels, H W pixels, h w code grid, R depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit_datasets.progress import Bar

from . import scores
from .autoencoder import Autoencoder
from .batches import padded
from .reconstruct import reconstruct
from .surprise import surprise

Inside = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) uint8 -> which of their pixels count, (B, H, W) bool."""


@dataclass(frozen=True)
class Recipe:
    """How maps become scores."""

    blur: float = 1 / 64  # deviation of the Gaussian over the image's side: 1 px at 64, 2 px at 128
    top: float = 0.02  # share of the pixels that count whose mean is the score


@dataclass(frozen=True)
class Healthy:
    """What a model makes of healthy images, see healthy.py."""

    mean: np.ndarray  # (Z, H, W) float32, of the blurred error in each of Z zones
    spread: np.ndarray  # (Z, H, W) float32, its standard deviation
    rarity: np.ndarray | None  # (R, places, K) float32 nats, of the codes of the first level; None without codes
    scores: dict[str, np.ndarray] = field(default_factory=dict)  # name -> (n,) float32, of the held-out images
    learned: int = 0  # images whose codes were counted
    held_out: int = 0  # images whose errors were measured
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class Maps:
    """What is unusual in B images. All are float32 on the model's device."""

    rebuilt: Tensor  # (B, C, H, W) in [0, 1]
    error: Tensor  # (B, H, W) absolute error in [0, 1], mean over channels
    deviation: Tensor  # (B, H, W) standard deviations
    surprise: Tensor | None  # (B, H, W) nats; None without codes
    inside: Tensor  # (B, H, W) bool, the pixels that count

    def first(self, n: int) -> Maps:
        """Those of the first `n` images."""
        return Maps(
            self.rebuilt[:n],
            self.error[:n],
            self.deviation[:n],
            None if self.surprise is None else self.surprise[:n],
            self.inside[:n],
        )

    def named(self) -> dict[str, Tensor]:
        """The maps that are scored, by name."""
        found = {"error": self.deviation}
        return found if self.surprise is None else {**found, "surprise": self.surprise}


class Detector:
    """A frozen model beside what is healthy.

    Args:
        model: the one that `healthy` is about.
        healthy: see healthy.py.
        inside: which pixels count; all by default.
    """

    def __init__(self, model: Autoencoder, healthy: Healthy, inside: Inside | None = None) -> None:
        device = model.mean.device
        self.model, self.healthy, self._inside = model, healthy, inside or everywhere
        self._mean, self._spread = (torch.from_numpy(each).to(device) for each in (healthy.mean, healthy.spread))
        self._rarity = None if healthy.rarity is None else torch.from_numpy(healthy.rarity).to(device)

    @torch.inference_mode()
    def maps(self, batch: Tensor, zones: np.ndarray | None = None) -> Maps:
        """The maps of uint8 images (B, C, H, W), of which each is of one of the zones (B,), by default the first."""
        rebuilt, quantized = reconstruct(self.model, batch)
        error = absolute_error(batch, rebuilt)
        where = np.zeros(len(batch), np.int64) if zones is None else zones
        deviation = (smoothed(error, self.healthy.recipe) - self._mean[where]) / self._spread[where]
        rare = None
        if self._rarity is not None:
            found = surprise(self._rarity, next(iter(quantized.values())).indices)[:, None]
            rare = smoothed(F.interpolate(found, size=error.shape[1:], mode="nearest")[:, 0], self.healthy.recipe)
        return Maps(rebuilt, error, deviation, rare, self._inside(batch))

    def run(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        *,
        zones: np.ndarray | None = None,
        batch_size: int,
        bar: Bar | None = None,
    ) -> Iterator[tuple[np.ndarray, Maps]]:
        """Batch by batch the rows of `images` (N, H, W, C) uint8 and their maps; memory does not grow with them.

        `zones` (N,) are those of all images.
        """
        for part, batch in padded(images, rows, batch_size, self.model.mean.device):
            each = np.zeros(batch_size, np.int64)
            if zones is not None:
                each[: len(part)] = zones[part]
            yield part, self.maps(batch, each).first(len(part))
            if bar is not None:
                bar.update(len(part))

    def scores(self, maps: Maps) -> dict[str, np.ndarray]:
        """Name of each scored map -> (B,) float32; NaN for an image without a pixel that counts."""
        top = partial(top_mean, inside=maps.inside, share=self.healthy.recipe.top)
        return {name: top(each).cpu().numpy() for name, each in maps.named().items()}


def everywhere(batch: Tensor) -> Tensor:
    """All pixels (B, H, W) of images (B, C, H, W)."""
    return torch.ones_like(batch[:, 0], dtype=torch.bool)


def absolute_error(batch: Tensor, rebuilt: Tensor) -> Tensor:
    """Absolute difference (B, H, W) in [0, 1] of uint8 images and what was rebuilt in [0, 1], mean over channels."""
    return (batch.float() / 255 - rebuilt).abs().mean(1)


def smoothed(maps: Tensor, recipe: Recipe) -> Tensor:
    """`maps` (B, H, W) after the recipe's Gaussian."""
    if not recipe.blur:
        return maps
    return scores.blurred(maps[:, None], recipe.blur * maps.shape[-1])[:, 0]


def top_mean(maps: Tensor, *, inside: Tensor, share: float) -> Tensor:
    """Mean (B,) of the highest `share` of the pixels `inside` (B, H, W) of `maps`, of one at least; NaN where none is.

    >>> maps = torch.arange(8.0).view(1, 2, 4)
    >>> top_mean(maps, inside=maps < 6, share=0.5)  # of 0 to 5 the upper three
    tensor([4.])
    """
    counts = inside.flatten(1).sum(1)  # (B,)
    wanted = (share * counts).ceil().clamp_min(1).long()
    ranked = maps.masked_fill(~inside, -torch.inf).flatten(1).topk(int(wanted.max()), dim=1).values
    places = torch.arange(ranked.shape[1], device=maps.device)
    mean = torch.where(places < wanted[:, None], ranked, 0.0).sum(1) / wanted
    return torch.where(counts > 0, mean, torch.nan)
