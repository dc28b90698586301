"""From codes to feature vectors: `vectors`, `mean`, `histogram` and `pyramid`.

* vectors: the quantised map z_q, flattened in the order D, h, w.
* mean: z_q averaged over the grid; says what is in the picture, not where.
* histogram: how often each code occurs; the square root of its relative frequency (the Hellinger map), which keeps
  frequent background codes from drowning rare ones.
* pyramid: such a histogram for every cell of a g x g grid, cells in reading order (Lazebnik et al. 2006, one scale).

The features of several levels stand one after another, in the store's order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit_datasets.codes import Codes, Level, lookup
from toolkit_datasets.errors import ToolkitError

KINDS = ("vectors", "mean", "histogram", "pyramid")

BLOCK_BYTES = 64 << 20  # of working memory per block of rows: far below a feature matrix, far above a file's overhead
HELD_BYTES = 512 << 20  # a feature matrix up to this size is kept in memory, a larger one is computed again when needed


@dataclass(frozen=True)
class FeatureSet:
    """One kind of features of every row of a store.

    `take(rows)` gives (n, F) float32, where F is `width`; `title` describes the features in a sentence's beginning.
    """

    title: str
    width: int
    take: Callable[[np.ndarray], np.ndarray]

    def held(self, rows: np.ndarray) -> FeatureSet:
        """The same features with those of `rows` kept in memory, where that costs no more than `HELD_BYTES`."""
        if len(rows) * self.width * 4 > HELD_BYTES:
            return self
        matrix: np.ndarray = self.take(rows)
        position = np.full(int(rows.max()) + 1, -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))

        def take(wanted: np.ndarray) -> np.ndarray:
            at: Any = position[wanted]
            assert (at >= 0).all(), "a row was asked for that is not held"
            first, last = int(at[0]), int(at[-1])
            if last - first + 1 == len(at) and np.array_equal(at, np.arange(first, last + 1)):
                at = slice(first, last + 1)  # a view: the test set is scored many times
            return np.asarray(matrix[at])

        return FeatureSet(title=self.title, width=self.width, take=take)


def features(
    kind: str, indices: Mapping[str, np.ndarray], codebooks: Mapping[str, np.ndarray], grid: int = 1
) -> np.ndarray:
    """Features of codes that are in memory, level after level.

    Args:
        kind: one of `KINDS`.
        indices: level -> (n, R, h, w) unsigned integers below K.
        codebooks: level -> (R, K, D) float32.
        grid: cells along each side; only `pyramid` looks at it.

    Returns:
        (n, F) float32 with F = D h w, D, R K or g g R K of every level together.
    """
    parts = []
    for name, codes in indices.items():
        if kind in ("vectors", "mean"):
            parts.append(_of_vectors(kind, lookup(codebooks[name], codes)))
        else:
            parts.append(_histograms(codes, codes=codebooks[name].shape[1], grid=grid if kind == "pyramid" else 1))
    return np.concatenate(parts, axis=1)


def of_codes(codes: Codes, kind: str, grid: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Features of `rows` of a store (all by default), computed block by block: (n, F) float32."""
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows, dtype=np.int64)
    result = np.empty((len(rows), width_of(codes.info.levels, kind, grid)), dtype=np.float32)
    step = block_rows(result.shape[1] * 8)  # histograms are counted in 8-byte integers
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        column = 0
        for level in codes.info.levels:
            if kind in ("vectors", "mean"):
                part = _of_vectors(kind, codes.vectors(level.name, block))
            else:
                part = _histograms(
                    codes.indices(level.name, block), codes=level.codes, grid=grid if kind == "pyramid" else 1
                )
            result[start : start + len(block), column : column + part.shape[1]] = part
            column += part.shape[1]
    return result


def feature_set(codes: Codes, kind: str, grid: int) -> FeatureSet:
    """The features of a store, after a check that the store can give them.

    Raises:
        ToolkitError: an unknown kind, latents asked for histograms, or a grid finer than the codes.
    """
    check_kind(codes, kind, grid)
    names = {
        "vectors": "the codes' quantised vectors, flattened",
        "mean": "the codes' mean vector",
        "histogram": "histogram of the codes",
        "pyramid": f"histograms of the codes in {grid} x {grid} cells",
    }
    return FeatureSet(
        title=names[kind],
        width=width_of(codes.info.levels, kind, grid),
        take=lambda rows: of_codes(codes, kind, grid, rows),
    )


def check_kind(codes: Codes, kind: str, grid: int) -> None:
    """Raise a ToolkitError where the store `codes` cannot give features of this kind."""
    if kind not in KINDS:
        raise ToolkitError(f"no features called {kind!r}: set probe.features to one of {', '.join(KINDS)}")
    if kind in ("vectors", "mean"):
        return
    without = [level.name for level in codes.info.levels if level.codes == 0]
    if codes.info.content == "latents" or without:
        raise ToolkitError(
            f"{codes.path} holds latents, which are not quantised, so there is nothing to count for "
            f"probe.features = {kind!r}: set probe.features to vectors or mean"
        )
    for level in codes.info.levels:
        if kind == "pyramid" and grid > min(level.height, level.width):
            raise ToolkitError(
                f"probe.grid = {grid} is finer than the {level.height} x {level.width} codes of level {level.name!r}: "
                f"set probe.grid to {min(level.height, level.width)} or less"
            )


def width_of(levels: tuple[Level, ...], kind: str, grid: int) -> int:
    """F, the number of features of all levels together."""
    if kind == "vectors":
        return sum(level.dim * level.height * level.width for level in levels)
    if kind == "mean":
        return sum(level.dim for level in levels)
    cells = grid**2 if kind == "pyramid" else 1
    return sum(cells * level.depth * level.codes for level in levels)


def block_rows(bytes_per_row: int) -> int:
    """How many rows fill one block of working memory: at least 1, at most 2,048."""
    return int(np.clip(BLOCK_BYTES // max(1, bytes_per_row), 1, 2048))


def _of_vectors(kind: str, vectors: np.ndarray) -> np.ndarray:
    """(n, D, h, w) -> (n, D h w) or (n, D)."""
    if kind == "vectors":
        return vectors.reshape(len(vectors), -1)
    mean: np.ndarray = vectors.mean(axis=(2, 3))
    return mean


def _histograms(indices: np.ndarray, *, codes: int, grid: int) -> np.ndarray:
    """Square roots of relative code frequencies per cell: (n, R, h, w) -> (n, g g R K), cell-major.

    Cell edges follow `row * g // h`, so cells differ by at most one row or column where g does not divide h or w.
    """
    n, depth, height, width = indices.shape
    rows, columns = np.arange(height) * grid // height, np.arange(width) * grid // width
    cell = rows[:, None] * grid + columns[None, :]  # (h, w)
    bins = grid * grid * depth * codes
    # One counter per (sample, cell, residual depth, code): all histograms of the block are one bincount.
    slot = (cell[None] * depth + np.arange(depth)[:, None, None]) * codes  # (R, h, w)
    flat = np.arange(n)[:, None, None, None] * bins + slot[None] + indices.astype(np.int64)
    counts = np.bincount(flat.ravel(), minlength=n * bins).reshape(n, bins)
    positions = np.bincount(cell.ravel(), minlength=grid * grid).repeat(depth * codes)  # codes per cell and depth
    frequencies: np.ndarray = np.sqrt(counts / positions[None]).astype(np.float32)
    return frequencies
