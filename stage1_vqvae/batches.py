"""Images from the memory map to the model, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from toolkit_datasets.card import Card
from toolkit_datasets.errors import ToolkitError

from .memory import release_pages, trim_heap

TRIM_EVERY = 8  # batches: often enough to keep memory flat, seldom enough to cost nothing


def load(images: np.ndarray, rows: np.ndarray, device: torch.device) -> Tensor:
    """`images[rows]` (B, H, W, C) as a uint8 tensor (B, C, H, W) that lies in memory as channels_last."""
    return torch.from_numpy(np.ascontiguousarray(images[rows])).permute(0, 3, 1, 2).to(device)


def padded(
    images: np.ndarray, rows: np.ndarray, size: int, device: torch.device, *, first: int = 0
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Batches of exactly `size` images, the last one filled up with copies of its last image.

    A convolution may sum in another order for another batch size; with one size an image's codes do not depend on how
    many images there are. Yields (the rows that count, images (size, C, H, W)); starts at batch number `first`.
    """
    for number, start in enumerate(range(first * size, len(rows), size)):
        part = rows[start : start + size]
        filled = np.concatenate([part, np.repeat(part[-1:], size - len(part))])
        yield part, load(images, filled, device)
        release_pages(images)
        if number % TRIM_EVERY == TRIM_EVERY - 1:
            trim_heap()


def epoch_batches(rows: np.ndarray, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """A permutation of `rows` in batches of nearly equal size, none above `batch_size`, each in ascending order.

    Depends on (seed, epoch) alone, so that a resumed training sees what an uninterrupted one would have seen.
    Ascending rows read a memory map in the direction that disks like.
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return [np.sort(part) for part in np.array_split(order, -(-len(rows) // batch_size))]


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many of `rows`, evenly spaced from the first to the last.

    >>> evenly(np.arange(10), 4), evenly(np.arange(3), 4)
    (array([0, 3, 6, 9]), array([0, 1, 2]))
    """
    chosen: np.ndarray = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
    return chosen


def check_shape(images: np.ndarray, card: Card) -> None:
    """Refuse images that were not prepared with the model's own preprocessing.

    Raises:
        ToolkitError: another size or number of channels.
    """
    wanted = (card.image.size, card.image.size, card.image.channels)
    if images.dtype != np.uint8 or tuple(images.shape[1:]) != wanted:
        raise ToolkitError(
            f"the images are {images.dtype} {tuple(images.shape[1:])}, but the model was made for uint8 {wanted} "
            "(height, width, channels): prepare them with the card of the run"
        )
