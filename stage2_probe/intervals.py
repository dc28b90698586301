"""95 % intervals by a joint bootstrap over draws and test groups.

The draws of a probe share their pool, their test set and their encoder, so they are no independent experiments: a
t-interval over them would be too narrow. Each resample draws the test groups with replacement (whole subjects, or
single pictures where there are no groups) and, independently, the draws; the accuracy is computed anew. All feature
sets see the same resamples, so differences between them are paired. What this does not cover: another pool of
labels, and another seed of the encoder.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
BLOCK = 100  # resamples at a time: their weights for 15,000 test groups take 6 MB


class Bootstrap:
    """Resamples of T test samples in G groups.

    Args:
        groups: (T,) the group of each test sample.
        seed: of the resamples.
        resamples: B.
    """

    def __init__(self, groups: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> None:
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self._order = np.argsort(group, kind="stable")
        self._starts = np.cumsum(sizes) - sizes
        self._sizes = sizes.astype(np.float32)
        self._seed, self._resamples = seed, resamples

    def accuracies(self, correct: np.ndarray) -> np.ndarray:
        """Test accuracy of every row under every resample of the test groups: (M, T) booleans -> (B, M) float64."""
        rows = len(correct)
        # Counts stay below 2**24, where float32 is exact, so the sums are too.
        right = np.add.reduceat(correct[:, self._order], self._starts, axis=1, dtype=np.float32)  # (M, G)
        rng = np.random.default_rng([self._seed, 0])
        count = len(self._sizes)
        result = np.empty((self._resamples, rows))
        for start in range(0, self._resamples, BLOCK):
            size = min(BLOCK, self._resamples - start)
            picked = rng.integers(0, count, size=(size, count)) + np.arange(size)[:, None] * count
            weights = np.bincount(picked.ravel(), minlength=size * count).reshape(size, count).astype(np.float32)
            result[start : start + size] = (weights @ right.T) / (weights @ self._sizes)[:, None]
        return result

    def resample(self, correct: Mapping[Key, np.ndarray]) -> dict[Key, np.ndarray]:
        """Mean accuracy of each entry under every resample of draws and test groups: (draws, T) -> (B,)."""
        accuracies = self.accuracies(np.concatenate(list(correct.values())))
        result, row = {}, 0
        for key, rows in correct.items():
            result[key] = self.over_draws(accuracies[:, row : row + len(rows)])
            row += len(rows)
        return result

    def over_draws(self, accuracies: np.ndarray) -> np.ndarray:
        """Mean over resampled draws: (B, draws) -> (B,). The same draws are picked for every feature set."""
        draws = accuracies.shape[1]
        picked = np.random.default_rng([self._seed, 1, draws]).integers(0, draws, size=accuracies.shape)
        mean: np.ndarray = np.take_along_axis(accuracies, picked, axis=1).mean(axis=1)
        return mean


def interval(values: np.ndarray) -> list[float]:
    """[low, high]: the middle 95 % of resampled values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]
