"""From codes to feature vectors.

* vectors: the quantised map z_q, flattened in the order D, h, w.
* mean: z_q averaged over the grid; says what is in the picture, not where.
* cells: z_q averaged over each cell of a g x g grid, flattened in the order D, cells: a little of where.
* histogram: how often each code occurs; the square root of its relative frequency (the Hellinger map), which keeps
  frequent background codes from drowning rare ones.
* pyramid: such a histogram for every cell of a g x g grid, cells in reading order (Lazebnik et al. 2006, one scale).

The features of several levels stand one after another, in the store's order. `auto` is no kind of its own, but a short
list of them, from which every draw chooses by cross-validation (see `choices`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit_datasets.codes import Codes, Level, lookup
from toolkit_datasets.errors import ToolkitError

AUTO = "auto"
KINDS = ("vectors", "mean", "cells", "histogram", "pyramid")
GRIDDED = ("cells", "pyramid")  # kinds that look at the number of cells
COUNTED = ("histogram", "pyramid")  # kinds that count codes, and so need some

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


@dataclass(frozen=True)
class Spec:
    """Which features of which levels: `kind` is one of `KINDS`, `grid` its cells along each side (1 where unused)."""

    kind: str
    grid: int
    levels: tuple[str, ...]

    def __str__(self) -> str:
        cells = f" {self.grid}x{self.grid}" if self.kind in GRIDDED else ""
        return f"{self.kind}{cells} of {' and '.join(self.levels)}"

    @property
    def title(self) -> str:
        """The beginning of a sentence about them."""
        names = {
            "vectors": "the codes' quantised vectors, flattened",
            "mean": "the codes' mean vector",
            "cells": f"the codes' mean vectors in {self.grid} x {self.grid} cells",
            "histogram": "histogram of the codes",
            "pyramid": f"histograms of the codes in {self.grid} x {self.grid} cells",
        }
        return names[self.kind]

    def width(self, levels: Sequence[Level]) -> int:
        """F, the number of features of its levels together."""
        return sum(self._width(level) for level in levels if level.name in self.levels)

    def _width(self, level: Level) -> int:
        if self.kind == "vectors":
            return level.dim * level.height * level.width
        if self.kind in ("mean", "cells"):
            return level.dim * self.grid**2
        return self.grid**2 * level.depth * level.codes


def choices(
    kind: str, grid: int, levels: Sequence[Level], *, wanted: Sequence[str] = (), content: str = "indices", origin: str
) -> tuple[Spec, ...]:
    """The features that `probe.features` = `kind` stands for: one, or several to choose from where it is `auto`.

    `auto` offers the mean of the first level that sums the picture up, with the fewest places; its mean in 2 x 2 cells
    where it has as many; and the mean of all such levels. Of a plain VQ-VAE's only level it offers the histogram before
    these. The first is tried whatever it is, the others where there are as many labels as features. The fine codes
    beside the others are not offered: on cats and dogs they cost 1.5 points at 100 labels, and their log loss in
    cross-validation is the lower one all the same.

    Args:
        kind: `auto` or one of `KINDS`.
        grid: cells along each side, for the kinds that have cells.
        levels: of the store.
        wanted: the names of the levels to read, the card's `probe.levels`; empty for all.
        content: of the store: latents have no codes to count, and vectors of residual codes are sums.
        origin: the store, for errors.

    Raises:
        ToolkitError: an unknown kind or level, histograms of what cannot be counted, or a grid finer than the codes.
    """
    names = tuple(level.name for level in levels)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ToolkitError(f"probe.levels: no level {unknown[0]!r} in {origin}, which has {', '.join(names)}")
    kept = [level for level in levels if not wanted or level.name in wanted]
    used = tuple(level.name for level in kept)
    if kind == AUTO:
        fewest = min(level.height * level.width for level in kept)
        summaries = [level for level in kept if level.height * level.width == fewest]
        if len(summaries) > 1 and summaries[0] is levels[0]:
            del summaries[0]  # the fine codes, on a grid as small as that of the others
        coarsest = summaries[0]
        counted = len(kept) == 1 and coarsest.depth == 1 and coarsest.codes and content != "latents"
        offered = [Spec("histogram", 1, used)] if counted else []
        offered.append(Spec("mean", 1, (coarsest.name,)))
        if min(coarsest.height, coarsest.width) >= 2:
            offered.append(Spec("cells", 2, (coarsest.name,)))
        if len(summaries) > 1:
            offered.append(Spec("mean", 1, tuple(level.name for level in summaries)))
        return tuple(offered)
    if kind not in KINDS:
        raise ToolkitError(f"no features called {kind!r}: set probe.features to {AUTO} or one of {', '.join(KINDS)}")
    if kind in COUNTED and content == "vectors" and any(level.depth > 1 for level in kept):
        deep = next(level for level in kept if level.depth > 1)
        raise ToolkitError(
            f"{origin} holds sums of the {deep.depth} residual codes of level {deep.name!r}, which cannot be counted "
            f"for probe.features = {kind!r}: encode with --content indices, or set it to {AUTO}, mean or cells"
        )
    if kind in COUNTED and (content == "latents" or any(level.codes == 0 for level in kept)):
        raise ToolkitError(
            f"{origin} holds latents, which are not quantised, so there is nothing to count for "
            f"probe.features = {kind!r}: set probe.features to vectors, mean or cells"
        )
    for level in kept:
        if kind in GRIDDED and grid > min(level.height, level.width):
            raise ToolkitError(
                f"probe.grid = {grid} is finer than the {level.height} x {level.width} codes of level {level.name!r}: "
                f"set probe.grid to {min(level.height, level.width)} or less"
            )
    return (Spec(kind, grid if kind in GRIDDED else 1, used),)


def features(spec: Spec, indices: Mapping[str, np.ndarray], codebooks: Mapping[str, np.ndarray]) -> np.ndarray:
    """Features of codes that are in memory.

    Args:
        spec: which.
        indices: level -> (n, R, h, w) unsigned integers below K; of a level without codes its latents (n, D, h, w).
        codebooks: level -> (R, K, D) float32, of each level that has codes.

    Returns:
        (n, F) float32.
    """
    parts = []
    for name in (level for level in indices if level in spec.levels):
        if spec.kind in COUNTED:
            parts.append(_histograms(indices[name], codes=codebooks[name].shape[1], grid=spec.grid))
        else:
            vectors = lookup(codebooks[name], indices[name]) if name in codebooks else indices[name]
            parts.append(_of_vectors(spec, vectors))
    return np.concatenate(parts, axis=1)


def of_codes(codes: Codes, spec: Spec, rows: np.ndarray | None = None) -> np.ndarray:
    """Features of `rows` of a store (all by default), computed block by block: (n, F) float32."""
    rows = np.arange(len(codes)) if rows is None else np.asarray(rows, dtype=np.int64)
    levels = [level for level in codes.info.levels if level.name in spec.levels]
    result = np.empty((len(rows), spec.width(levels)), dtype=np.float32)
    read = max(level.dim * level.height * level.width for level in levels)
    # Histograms are counted in 8-byte integers; vectors are read, turned so that codes lie together, and compared.
    step = block_rows(max(result.shape[1] * 8, read * 12))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        column = 0
        for level in levels:
            if spec.kind in COUNTED:
                part = _histograms(codes.indices(level.name, block), codes=level.codes, grid=spec.grid)
            else:
                part = _of_vectors(spec, codes.vectors(level.name, block))
            result[start : start + len(block), column : column + part.shape[1]] = part
            column += part.shape[1]
    return result


def feature_set(codes: Codes, spec: Spec) -> FeatureSet:
    """The features of a store."""
    return FeatureSet(
        title=spec.title, width=spec.width(codes.info.levels), take=lambda rows: of_codes(codes, spec, rows)
    )


def block_rows(bytes_per_row: int) -> int:
    """How many rows fill one block of working memory: at least 1, at most 2,048."""
    return int(np.clip(BLOCK_BYTES // max(1, bytes_per_row), 1, 2048))


def _of_vectors(spec: Spec, vectors: np.ndarray) -> np.ndarray:
    """(n, D, h, w) -> (n, D h w), (n, D) or (n, D g g)."""
    if spec.kind == "vectors":
        return vectors.reshape(len(vectors), -1)
    if spec.grid == 1:
        mean: np.ndarray = vectors.mean(axis=(2, 3))
        return mean
    n, dim, height, width = vectors.shape
    row, column = _cell_of(height, spec.grid), _cell_of(width, spec.grid)
    cells = np.empty((n, dim, spec.grid, spec.grid), dtype=np.float32)
    for i in range(spec.grid):
        for j in range(spec.grid):
            cells[:, :, i, j] = vectors[:, :, row == i][:, :, :, column == j].mean(axis=(2, 3))
    return cells.reshape(n, -1)


def _cell_of(places: int, grid: int) -> np.ndarray:
    """The cell of each place along a side: cells differ by at most one place where g does not divide their number."""
    return np.arange(places) * grid // places


def _histograms(indices: np.ndarray, *, codes: int, grid: int) -> np.ndarray:
    """Square roots of relative code frequencies per cell: (n, R, h, w) -> (n, g g R K), cell-major."""
    n, depth, height, width = indices.shape
    cell = _cell_of(height, grid)[:, None] * grid + _cell_of(width, grid)[None, :]  # (h, w)
    bins = grid * grid * depth * codes
    # One counter per (sample, cell, residual depth, code): all histograms of the block are one bincount.
    slot = (cell[None] * depth + np.arange(depth)[:, None, None]) * codes  # (R, h, w)
    flat = np.arange(n)[:, None, None, None] * bins + slot[None] + indices.astype(np.int64)
    counts = np.bincount(flat.ravel(), minlength=n * bins).reshape(n, bins)
    positions = np.bincount(cell.ravel(), minlength=grid * grid).repeat(depth * codes)  # codes per cell and depth
    frequencies: np.ndarray = np.sqrt(counts / positions[None]).astype(np.float32)
    return frequencies
