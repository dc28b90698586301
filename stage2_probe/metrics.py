"""Scores of one draw on the test set. Undefined scores are None, never NaN: they end up in JSON."""

from __future__ import annotations

import statistics

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """(C, C) counts; rows are the truth, columns the prediction."""
    counts: np.ndarray = np.bincount(truth * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, -1)
    return counts


def accuracy(counts: np.ndarray) -> float:
    """Share of right answers, from a confusion matrix."""
    return float(np.trace(counts) / counts.sum())


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean recall of the classes that occur in the test set."""
    present = counts.sum(axis=1) > 0
    return float((np.diag(counts)[present] / counts.sum(axis=1)[present]).mean())


def macro_f1(counts: np.ndarray) -> float:
    """Mean F1 of the classes that occur in truth or prediction; a class never met rightly has 0."""
    total = counts.sum(axis=0) + counts.sum(axis=1)
    present = total > 0
    return float((2 * np.diag(counts)[present] / total[present]).mean())


def auroc(truth: np.ndarray, shares: np.ndarray) -> float | None:
    """Area under the ROC curve, 0 to 1; with more than two classes the mean of one-against-the-rest areas.

    Args:
        truth: (T,) integer classes.
        shares: (T, C) scores; larger means more likely.

    Returns:
        None where fewer than two classes occur in `truth`.
    """
    if shares.shape[1] == 2:
        areas = [_area(truth == 1, shares[:, 1])]
    else:
        areas = [_area(truth == cls, shares[:, cls]) for cls in range(shares.shape[1])]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if defined else None


def _area(positive: np.ndarray, score: np.ndarray) -> float | None:
    """The chance that a positive scores above a negative, ties counting one half (Mann-Whitney U)."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # mean rank, from 1, of each distinct score
    u = float(rank[place][positive].sum()) - n_positive * (n_positive + 1) / 2
    return u / (n_positive * n_negative)


def mae(target: np.ndarray, predicted: np.ndarray) -> float:
    """Mean absolute error, in the unit of the targets."""
    return float(np.abs(predicted - target).mean())


def rmse(target: np.ndarray, predicted: np.ndarray) -> float:
    """Root of the mean squared error, in the unit of the targets."""
    return float(np.sqrt(((predicted - target) ** 2).mean()))


def r2(target: np.ndarray, predicted: np.ndarray) -> float | None:
    """Share of the targets' variance around their own mean that is predicted: 1 at best, below 0 without limit.

    None where all targets are equal.
    """
    spread = float(((target - target.mean()) ** 2).sum())
    return 1 - float(((predicted - target) ** 2).sum()) / spread if spread else None


def pearson(target: np.ndarray, predicted: np.ndarray) -> float | None:
    """Linear correlation, -1 to 1; blind to a wrong mean or scale. None where either side is constant."""
    a, b = target - target.mean(), predicted - predicted.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else None


def mean_sd(values: list[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation over draws; None where undefined (the sd of a single draw)."""
    defined = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "sd": statistics.stdev(defined) if len(defined) > 1 else None,
    }
