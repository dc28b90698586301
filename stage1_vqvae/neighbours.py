"""The training image nearest to each of some pictures: would one see that a model has copied?

Two distances, both root mean squares over an image's numbers: of its pixels in [0, 1], and of its latents, which the
model's own encoder gives for both sides. Training images stream through once and are forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .autoencoder import Autoencoder, Levels
from .batches import padded
from .nearest import distances_to, nearest

MEASURES = ("pixels", "latents")


@dataclass(frozen=True)
class Nearest:
    """For each picture its nearest training image."""

    rows: np.ndarray  # (n,) of the sample table; -1 as long as none was seen
    distances: np.ndarray  # (n,) float32, 0 for a copy

    def part(self, chosen: slice) -> Nearest:
        """Some of the pictures."""
        return Nearest(self.rows[chosen], self.distances[chosen])


class Search:
    """Goes through training images batch by batch and keeps the nearest one of each picture, by either measure."""

    def __init__(self, model: Autoencoder, pictures: np.ndarray, *, batch_size: int) -> None:
        """Look for the neighbours of `pictures` (n, H, W, C) uint8."""
        points: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
        for part, batch in padded(pictures, np.arange(len(pictures)), batch_size, model.mean.device):
            with torch.inference_mode():
                found = _points(batch, model.encode(batch), len(part))
            for name, values in found.items():
                points[name].append(values)
        self._points = {name: torch.cat(values) for name, values in points.items()}  # (n, P) each
        device = model.mean.device
        self._squares = {name: torch.full((len(pictures),), torch.inf, device=device) for name in MEASURES}
        self._rows = {name: np.full(len(pictures), -1) for name in MEASURES}

    def add(self, rows: np.ndarray, batch: Tensor, latents: Levels) -> None:
        """Look at the training images `rows` (b,): the first b of a batch (B, C, H, W) uint8, and of its latents."""
        for name, points in _points(batch, latents, len(rows)).items():
            own, best = self._points[name], self._squares[name]
            found = nearest(own, points)
            squares = distances_to(own, points, found)  # from the difference: a copy comes out as exactly 0
            closer = squares < best
            self._squares[name] = torch.where(closer, squares, best)
            chosen = closer.cpu().numpy()
            self._rows[name][chosen] = rows[found.cpu().numpy()[chosen]]

    def found(self) -> dict[str, Nearest]:
        """By each measure the nearest of all training images seen so far."""
        return {name: Nearest(self._rows[name], self._squares[name].sqrt().cpu().numpy()) for name in MEASURES}


def _points(batch: Tensor, latents: Levels, n: int) -> dict[str, Tensor]:
    """The first `n` images as points whose Euclidean distance is the root mean square of the differences.

    Of several levels each counts alike, however many numbers it has. Pixels have their middle at zero, which keeps
    digits when squares are subtracted.
    """
    pixels = batch[:n].float().flatten(1) / 255 - 0.5
    levels = [values[:n].float().flatten(1) for values in latents.values()]
    return {
        "pixels": pixels / math.sqrt(pixels.shape[1]),
        "latents": torch.cat([values / math.sqrt(values.shape[1] * len(levels)) for values in levels], 1),
    }
