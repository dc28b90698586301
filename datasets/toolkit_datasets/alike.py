"""Images that are nearly the same: neighbouring slices of one scan, frames of one film, a picture saved twice.

Two images are alike where their grey thumbnails correlate: brightness and contrast make no difference, nor does what
is finer than a thumbnail's pixel. Likeness is handed on, so that a chain of slices becomes one group. Comparing all
with all takes time with the square of their number.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from .progress import SILENT, Progress

SIDE = 32  # pixels of a thumbnail, or of the image if that has fewer
BLOCK = 250  # images shrunk, and compared with all others, at once


def alike(images: NDArray[np.uint8], least: float, *, progress: Progress = SILENT) -> NDArray[np.int64]:
    """(N,) a number for each image, the same for those that are alike.

    Args:
        images: (N, H, W, C) uint8, H = W; may be a memory map.
        least: correlation of two thumbnails, in (0, 1), from which on they are alike.
        progress: shows how far it has come.
    """
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
    from sklearn.neighbors import NearestNeighbors

    numbers = np.arange(len(images))
    small = thumbnails(images)
    shown = np.flatnonzero(small.any(1))  # a flat image correlates with nothing
    if not len(shown):
        return numbers
    small = small[shown]
    within = NearestNeighbors(radius=sqrt(2 * (1 - least)), algorithm="brute").fit(small)
    each = np.arange(len(small))
    # The first of those alike so far: it alone ties a block to the ones before, few links however many pairs.
    first = each
    with progress.bar("near duplicates", len(small), "images") as bar:
        for start in range(0, len(small), BLOCK):
            rows, columns = within.radius_neighbors_graph(small[start : start + BLOCK]).nonzero()
            links = np.concatenate([rows + start, each]), np.concatenate([columns, first])
            graph = coo_array((np.ones(len(links[0]), bool), links), shape=(len(small), len(small)))
            _, place, group = np.unique(
                connected_components(graph, directed=False)[1], return_index=True, return_inverse=True
            )
            first = place[group]
            bar.update(min(BLOCK, len(small) - start))
    numbers[shown] = shown[first]
    return numbers


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, S * S) grey images, shrunk by averaging areas to S = min(H, 32), with mean 0 and length 1; 0 where flat."""
    size = images.shape[1]
    shrink = _area(size, min(size, SIDE))
    small = np.empty((len(images), len(shrink) ** 2), np.float32)
    for start in range(0, len(images), BLOCK):
        grey = images[start : start + BLOCK].mean(3, dtype=np.float32)
        small[start : start + BLOCK] = (shrink @ grey @ shrink.T).reshape(len(grey), -1)
    small -= small.mean(1, keepdims=True)
    length = np.linalg.norm(small, axis=1, keepdims=True)
    small[:] = np.divide(small, length, out=np.zeros_like(small), where=length > 1e-3)
    return small


def _area(size: int, small: int) -> NDArray[np.float32]:
    """(small, size) the share of each pixel in each thumbnail pixel along one side."""
    edges = np.linspace(0, size, small + 1)
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    shares: NDArray[np.float32] = (overlap.clip(0) * small / size).astype(np.float32)
    return shares
