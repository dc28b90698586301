"""95 % intervals by a joint bootstrap over draws and test groups.

The draws of a probe share their pool, their test set and their encoder, so they are no independent experiments: a
t-interval over them would be too narrow. Each resample draws the test groups with replacement (whole subjects, or
single pictures where there are no groups) and, independently, the draws; the score is computed anew. All feature
sets see the same resamples, so differences between them are paired. What this does not cover: another pool of
labels, and another seed of the encoder.

With few test groups the ends are taken further out, so that an interval over fourteen subjects is nearly as often
right as it says (see `tails`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped]

Key = TypeVar("Key", bound=Hashable)

RESAMPLES = 2000
BLOCK = 100  # resamples at a time: their weights for 15,000 test groups take 6 MB
BLOCK_BYTES = 64 << 20  # of their weights at most: of a million test groups 16 resamples at a time
GROUPS = 1 << 16  # test groups whose right answers stand in float32 at a time: of 95 draws 25 MB


class Bootstrap:
    """Resamples of T test samples in G groups.

    Args:
        groups: (T,) the group of each test sample.
        seed: of the resamples.
        resamples: B.
    """

    def __init__(self, groups: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> None:
        _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        self._group = group
        self._order = np.argsort(group, kind="stable")
        self._starts = np.cumsum(sizes) - sizes
        self._sizes = sizes.astype(np.float32)
        self._seed, self._resamples = seed, resamples

    def accuracies(self, correct: np.ndarray) -> np.ndarray:
        """Test accuracy of every row under every resample of the test groups: (M, T) booleans -> (B, M) float64."""
        right = correct[:, self._order]  # (M, G), in as few bytes as count a group's samples
        if len(self._starts) < right.shape[1]:
            counted = np.min_scalar_type(int(self._sizes.max()))
            right = np.add.reduceat(right, self._starts, axis=1, dtype=counted)
        result = np.empty((self._resamples, len(correct)))
        for part, weights in self.weights():
            # Counts stay below 2**24, where float32 is exact, so the sums are too, in whatever order.
            sums = np.zeros((len(weights), len(right)), np.float32)
            for start in range(0, right.shape[1], GROUPS):
                some = slice(start, start + GROUPS)
                sums += weights[:, some] @ right[:, some].T.astype(np.float32)
            result[part] = sums / (weights @ self._sizes)[:, None]
        return result

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean over test samples of every row under every resample, such as of absolute errors: (M, T) -> (B, M)."""
        sums = self._sums(np.concatenate([values, np.ones((1, values.shape[1]))]))
        means: np.ndarray = sums[:, :-1] / sums[:, -1:]
        return means

    def r2(self, predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
        """R2 of every row under every resample, a ratio of resampled sums: (M, T) and (T,) -> (B, M).

        Each resample's squared errors are set against its own spread around its own mean; NaN where it has none.
        """
        centred = target - target.mean()  # before squares are taken: a year such as 1987 would cost half the digits
        extra = np.stack([np.ones_like(centred), centred, centred**2])
        sums = self._sums(np.concatenate([(predicted - target) ** 2, extra]))
        errors, (count, first, second) = sums[:, :-3], sums[:, -3:].T
        spread = second - first**2 / count
        spread[spread <= 1e-12 * (second + 1e-300)] = np.nan  # one value only, up to rounding
        r2: np.ndarray = 1 - errors / spread[:, None]
        return r2

    def resample(
        self, rows: Mapping[Key, np.ndarray], measure: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> dict[Key, np.ndarray]:
        """Mean score of each entry under every resample of draws and test groups: (draws, T) -> (B,).

        Args:
            rows: what `measure` takes, one row for each draw.
            measure: (M, T) -> (B, M), `accuracies` by default.
        """
        values = (measure or self.accuracies)(np.concatenate(list(rows.values())))
        result, row = {}, 0
        for key, part in rows.items():
            result[key] = self.over_draws(values[:, row : row + len(part)])
            row += len(part)
        return result

    def over_draws(self, values: np.ndarray) -> np.ndarray:
        """Mean over resampled draws: (B, draws) -> (B,). The same draws are picked for every feature set."""
        draws = values.shape[1]
        picked = np.random.default_rng([self._seed, 1, draws]).integers(0, draws, size=values.shape)
        mean: np.ndarray = np.take_along_axis(values, picked, axis=1).mean(axis=1)
        return mean

    def auroc(self, shares: np.ndarray, positive: np.ndarray) -> np.ndarray:
        """Area under the ROC curve of every row under every resample: (M, T) and (T,) booleans -> (B, M).

        Each resample weighs the pairs of a positive and a negative (Mann-Whitney U), ties counting one half; NaN where
        it holds one class only. Takes time and memory by the number of pairs.
        """
        result = np.empty((self._resamples, len(shares)))
        for row, share in enumerate(shares):  # one at a time: the pairs of all rows would be large
            wins = (np.sign(share[positive, None] - share[~positive]) + 1).astype(np.float32) / 2  # (P, T - P)
            for part, weights in self.weights():
                of_sample = weights[:, self._group]
                up, down = of_sample[:, positive], of_sample[:, ~positive]
                pairs = up.sum(axis=1) * down.sum(axis=1)
                result[part, row] = ((up @ wins) * down).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
        return result

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over test samples of every row under every resample: (M, T) -> (B, M), all in float64."""
        by_group = np.add.reduceat(values[:, self._order], self._starts, axis=1, dtype=np.float64)  # (M, G)
        result = np.empty((self._resamples, len(values)))
        for part, weights in self.weights():
            result[part] = weights.astype(np.float64) @ by_group.T
        return result

    def weights(self) -> Iterator[tuple[slice, np.ndarray]]:
        """How often each group is in each resample, block by block: slices of B, and (block, G) float32."""
        rng = np.random.default_rng([self._seed, 0])
        count = len(self._sizes)
        step = int(np.clip(BLOCK_BYTES // (4 * count), 1, BLOCK))
        for start in range(0, self._resamples, step):
            size = min(step, self._resamples - start)
            weights = np.empty((size, count), np.float32)
            for row in weights:  # one at a time: the counters then stay in the processor's cache
                row[:] = np.bincount(rng.integers(0, count, size=count), minlength=count)
            yield slice(start, start + size), weights


def interval(values: np.ndarray, units: int) -> list[float] | None:
    """[low, high]: the middle 95 % of the resampled values that are defined; None where none is.

    Args:
        values: (B,) a score under every resample; NaN where it is undefined.
        units: test groups that were resampled; with few of them the ends lie further out.
    """
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    share = tails(units)
    low, high = np.quantile(defined, [share, 1 - share])
    return [float(low), float(high)]


def share_interval(values: np.ndarray, units: int) -> list[float] | None:
    """As `interval`, of shares of right answers: where all are right in every resample (or none is), nothing varies,
    and the limit is the exact one (Clopper and Pearson 1934). 14 of 14 may be a true share of 77 %.
    """
    limit = 0.025 ** (1 / units)
    if (values == 1).all():
        return [limit, 1.0]
    return [0.0, 1 - limit] if (values == 0).all() else interval(values, units)


def tails(units: int) -> float:
    """Share of resamples beyond each end of a 95 % interval over so many units: 0.025, and less for few.

    Resampled means of n units vary by sqrt((n - 1) / n) too little, and normally where a t-distribution belongs; taking
    the ends so far out mends both (Hesterberg 2015, "What teachers should know about the bootstrap", doi
    10.1080/00031305.2015.1089789: expanded percentiles).

    >>> [round(tails(units), 4) for units in (2, 14, 50, 15_000)]
    [0.0, 0.0125, 0.0212, 0.025]
    """
    if units < 2:
        return 0.0
    return float(ndtr(-stdtrit(units - 1, 0.975) * (units / (units - 1)) ** 0.5))
