"""Images beside what the model made of them, one whole after the other: a picture, or all slices of a volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from toolkit_datasets.progress import Bar

from . import scores
from .autoencoder import Autoencoder
from .batches import padded
from .reconstruct import reconstruct

SCORES = ("psnr", "ssim", "mse", "mae")  # of the whole image; dB, at most 1, and of images in [0, 1]
INSIDE = ("foreground", "psnr_foreground", "ssim_foreground", "mse_foreground")  # its share, and scores within


@dataclass(frozen=True)
class Pairs:
    """The n images of one whole, in order."""

    rows: np.ndarray  # (n,)
    originals: np.ndarray  # (n, H, W, C) uint8
    reconstructions: np.ndarray  # (n, H, W, C) float32 in [0, 1]
    scores: dict[str, np.ndarray]  # SCORES, and INSIDE where asked for: (n,) float32 each
    indices: dict[str, np.ndarray]  # level -> (n, R, h, w) codes; empty for a VAE


def side_by_side(
    model: Autoencoder,
    images: np.ndarray,
    rows: np.ndarray,
    *,
    wholes: np.ndarray,
    batch_size: int,
    foreground: bool = False,
    bar: Bar | None = None,
) -> Iterator[Pairs]:
    """Reconstruct `images[rows]` and judge each image; memory holds a batch and one whole.

    Args:
        model: the trained one.
        images: (N, H, W, C) uint8.
        rows: which of them.
        wholes: (rows,) what each one is a part of, such as its file; parts of one whole follow each other.
        batch_size: of the model, in padded batches.
        foreground: also judge inside the foreground, which slices of volumes have; see `scores.judge`.
        bar: counts images.

    Yields:
        One `Pairs` for each whole.
    """
    waiting: list[Pairs] = []
    done = 0
    for part, batch in padded(images, rows, batch_size, model.mean.device):
        found = _pairs(model, images, part, batch, foreground=foreground)
        names = wholes[done : done + len(part)]
        done += len(part)
        cuts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(part)]
        if waiting and names[0] != wholes[done - len(part) - 1]:
            yield _joined(waiting)
            waiting = []
        for start, stop in pairwise(cuts):
            waiting.append(_part(found, slice(start, stop)))
            if stop < len(part):
                yield _joined(waiting)
                waiting = []
        if bar is not None:
            bar.update(len(part))
    if waiting:
        yield _joined(waiting)


def _pairs(model: Autoencoder, images: np.ndarray, rows: np.ndarray, batch: Tensor, *, foreground: bool) -> Pairs:
    decoded, quantized = reconstruct(model, batch)
    n = len(rows)
    a, b = batch[:n].float() / 255, decoded[:n]
    found = scores.judge(a, b, foreground=foreground)
    return Pairs(
        rows,
        np.ascontiguousarray(images[rows]),
        b.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
        {name: values.cpu().numpy() for name, values in found.items()},
        {name: each.indices[:n].cpu().numpy() for name, each in quantized.items()},
    )


def _part(pairs: Pairs, chosen: slice) -> Pairs:
    return Pairs(
        pairs.rows[chosen],
        pairs.originals[chosen],
        pairs.reconstructions[chosen],
        {name: values[chosen] for name, values in pairs.scores.items()},
        {name: values[chosen] for name, values in pairs.indices.items()},
    )


def _joined(parts: list[Pairs]) -> Pairs:
    if len(parts) == 1:
        return parts[0]
    return Pairs(
        np.concatenate([each.rows for each in parts]),
        np.concatenate([each.originals for each in parts]),
        np.concatenate([each.reconstructions for each in parts]),
        {name: np.concatenate([each.scores[name] for each in parts]) for name in parts[0].scores},
        {name: np.concatenate([each.indices[name] for each in parts]) for name in parts[0].indices},
    )
