"""A draw, standardised and turned into its own row space: exact, and far smaller than the features.

With an L2 penalty the best weights are a linear combination of the training rows (the representer theorem), so
n rows of F >> n features can be rotated into r <= n - 1 coordinates without changing any solution, distance to a
neighbour, or decision; weights found there are mapped back by the same rotation. The coordinates are the principal
axes of the draw, found from its n x n Gram matrix.

Features are divided by their standard deviation and by the square root of F, so that rows have unit length on
average and one grid of penalties suits every number of features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

COLUMNS = 8192  # features handled at a time in float64
CONSTANT = 1e-6  # a feature whose sd is below this share of its largest size is rounding noise: its weight is zero
SMALLEST = 1e-30  # nor does a feature of a smaller sd count: its weight would not fit into float32
RANK = 1e-10  # eigenvalues below this share of the largest one are rounding noise


class RowSpace:
    """The standardised draw `x` (n, F) in its row space.

    Attributes:
        mean: (F,) float64, of the draw.
        scale: (F,) float64, 1 / (sd sqrt(F)); 0 for features that are constant on the draw.
        coordinates: (n, r) float64; r < n where n <= F, else r = F and the coordinates are the standardised features.
    """

    def __init__(self, x: np.ndarray) -> None:
        self._x = x
        n, width = x.shape
        self.mean, self.scale = np.empty(width), np.empty(width)
        for part in _parts(width):
            block = x[:, part].astype(np.float64)
            self.mean[part] = block.mean(axis=0)
            sd = block.std(axis=0)
            varies = sd > np.maximum(CONSTANT * np.abs(block).max(axis=0), SMALLEST)
            self.scale[part] = np.where(varies, 1 / (np.where(varies, sd, 1) * np.sqrt(width)), 0)
        self._combine: np.ndarray | None = None  # (n, r): coordinates of a basis vector in terms of the draw's rows
        if n > width:
            self.coordinates = self._standardised(slice(None))
            return
        gram = np.zeros((n, n))
        for part in _parts(width):
            block = self._standardised(part)
            gram += block @ block.T
        if not gram.any():  # nothing varies: one coordinate, always 0
            self.coordinates = self._combine = np.zeros((n, 1))
            return
        values, vectors = np.linalg.eigh(gram)
        keep = values > RANK * values[-1]
        values, vectors = values[keep][::-1], vectors[:, keep][:, ::-1]
        self.coordinates = vectors * np.sqrt(values)
        self._combine = vectors / np.sqrt(values)

    def fold(self, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn an affine map of the coordinates into one of raw features, scaling included.

        Args:
            weight: (r, H); bias: (H,).

        Returns:
            (F, H) float32 and (H,) float64, such that `x @ weight + bias` equals `coordinates @ weight + bias`.
        """
        width = len(self.mean)
        folded = np.empty((width, weight.shape[1]), dtype=np.float32)
        rows = None if self._combine is None else self._combine @ weight  # (n, H)
        for part in _parts(width):
            standardised = weight[part] if rows is None else self._standardised(part).T @ rows
            folded[part] = self.scale[part, None] * standardised
        return folded, bias - self.mean @ folded

    def _standardised(self, part: slice) -> np.ndarray:
        """(n, F') float64: some columns of the draw, standardised."""
        block: np.ndarray = (self._x[:, part].astype(np.float64) - self.mean[part]) * self.scale[part]
        return block


def _parts(width: int) -> Iterator[slice]:
    return (slice(start, min(start + COLUMNS, width)) for start in range(0, width, COLUMNS))
