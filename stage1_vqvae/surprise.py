"""How surprising the codes of an image are: -log p of each, by how often healthy images have that code at that place.

The share of code k at a place is its count there drawn towards its share everywhere, as if `PRIOR` more images had been
seen that have the overall shares at every place (a Dirichlet prior; MacKay & Peto, "A hierarchical Dirichlet language
model", 1995). Overall counts start at one half each, so that a code which no healthy image has still gets a share.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.codes import Level

PRIOR = 10.0  # images: fewer seen than these, and a place says less than all places together
MOST_BYTES = 256 << 20  # of a table with places; a larger one would say the same of all of them


class CodeTally:
    """How often each code of a level was chosen at each place, over many batches.

    Args:
        level: the one whose codes are counted.
        device: where the codes are.
    """

    def __init__(self, level: Level, device: torch.device) -> None:
        places = level.height * level.width
        if 4 * level.depth * places * level.codes > MOST_BYTES:
            places = 1
        self._counts = torch.zeros(level.depth, places, level.codes, dtype=torch.long, device=device)
        self._images, self._spots = 0, level.height * level.width // places

    def add(self, indices: Tensor) -> None:
        """Count the codes `indices` (n, R, h, w) of n images."""
        depth, places, codes = self._counts.shape
        flat = indices.flatten(2)  # (n, R, h w)
        at = torch.arange(depth, device=flat.device)[:, None] * places
        at = at + (torch.arange(flat.shape[2], device=flat.device) if places > 1 else 0)  # (R, h w) or (R, 1)
        self._counts += torch.bincount((at * codes + flat).reshape(-1), minlength=self._counts.numel()).view_as(
            self._counts
        )
        self._images += len(indices)

    def table(self) -> np.ndarray:
        """-log p in nats, (R, places, K) float32; one place stands for all where places would take too much memory."""
        counts = self._counts.double()
        overall = counts.sum(1, keepdim=True) + 0.5
        overall = overall / overall.sum(2, keepdim=True)  # (R, 1, K)
        shares = (counts + PRIOR * self._spots * overall) / ((self._images + PRIOR) * self._spots)
        return -shares.log().float().cpu().numpy()


def surprise(table: Tensor, indices: Tensor) -> Tensor:
    """-log p of each place's codes in nats, summed over residual depths: `indices` (n, R, h, w) -> (n, h, w)."""
    flat = indices.flatten(2)  # (n, R, h w)
    depths = torch.arange(flat.shape[1], device=flat.device)[:, None]
    places = torch.arange(flat.shape[2], device=flat.device) if table.shape[1] > 1 else torch.zeros_like(flat[0, 0])
    found: Tensor = table[depths, places, flat].sum(1)
    return found.view(len(indices), *indices.shape[2:])
