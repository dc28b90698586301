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


def mean_sd(values: list[float | None]) -> dict[str, float | None]:
    """Mean and sample standard deviation over draws; None where undefined (the sd of a single draw)."""
    defined = [value for value in values if value is not None]
    return {
        "mean": statistics.fmean(defined) if defined else None,
        "sd": statistics.stdev(defined) if len(defined) > 1 else None,
    }
