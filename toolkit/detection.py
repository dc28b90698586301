"""How well a score tells ill from healthy: area under the ROC curve, average precision, and their intervals.

All of them are sums over the distinct scores, of how many positives and negatives have each; so a bootstrap over
subjects only weighs those counts anew, and the scores of a billion pixels are a histogram for each subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stage2_probe.intervals import Bootstrap, interval

RESAMPLES = 1000
FEWEST = 3  # subjects; an interval over fewer would say nothing
BINS, LARGEST = 4096, 500.0
EDGES = np.sinh(np.linspace(-np.arcsinh(20.0), np.arcsinh(LARGEST), BINS - 1))
"""Ends of the bins of a pixel's score: 0.003 wide near 0, a 400th of the score far from it; the outermost are open."""


@dataclass(frozen=True)
class Areas:
    """Scores of one ranking, or of many. Shapes are those of the counts without their last axis; NaN if undefined."""

    auroc: np.ndarray  # chance that a positive is above a negative, ties counting one half
    average_precision: np.ndarray  # mean precision at each positive; the share of positives is what chance gives


def areas(positive: np.ndarray, negative: np.ndarray) -> Areas:
    """Both areas.

    Args:
        positive: (..., U) how many positives have each of U scores, the highest score first; may be weights.
        negative: the same of the negatives.

    >>> areas(np.array([1, 1, 0]), np.array([0, 1, 1])).auroc.item()  # one of each has the middle score
    0.875
    """
    found, wrong = np.cumsum(positive, -1, dtype=float), np.cumsum(negative, -1, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = negative * (found - positive / 2)
        auroc = below.sum(-1) / (found[..., -1] * wrong[..., -1])
        precision = np.nan_to_num(found / (found + wrong))
        average = (positive * precision).sum(-1) / found[..., -1]
    return Areas(auroc, np.where(wrong[..., -1] > 0, average, np.nan))


def best_dice(positive: np.ndarray, negative: np.ndarray) -> float:
    """The Dice coefficient at the threshold where it is largest: an upper bound, as the truth chose it."""
    found, called = np.cumsum(positive, dtype=float), np.cumsum(positive + negative, dtype=float)
    return float((2 * found / (found[-1] + called)).max())


def detection(score: np.ndarray, truth: np.ndarray, groups: np.ndarray, *, seed: int) -> dict[str, Any]:
    """How well `score` (n,) ranks `truth` (n,) bool, with 95 % intervals by a bootstrap over `groups` (n,).

    Returns:
        n, positive, groups; auroc and average_precision, each {"value", "ci95"}. An interval is None of fewer than
        three groups, and both measures are where `truth` has one side only.
    """
    order = np.argsort(-score, kind="stable")
    score, truth, groups = score[order], truth[order].astype(bool), groups[order]
    _, groups = np.unique(groups, return_inverse=True)
    starts = np.flatnonzero(np.r_[True, score[1:] != score[:-1]])
    positive, negative = (np.add.reduceat(side.astype(float), starts) for side in (truth, ~truth))
    counts = {"n": len(score), "positive": int(truth.sum()), "groups": int(groups.max()) + 1}

    def resampled() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for _, weights in Bootstrap(groups, seed=seed, resamples=RESAMPLES).weights():
            each = weights[:, groups].astype(float)  # (block, n)
            yield tuple(np.add.reduceat(each * side, starts, axis=1) for side in (truth, ~truth))  # type: ignore[misc]

    units = int(counts["groups"])
    return {**counts, **_measures(positive, negative, resampled() if units >= FEWEST else iter(()), units=units)}


class PixelCounts:
    """Positives and negatives among the pixels of each subject, by score, over many images."""

    def __init__(self) -> None:
        self._counts: dict[str, np.ndarray] = {}  # subject -> (2, BINS): negatives, positives; highest score first

    def add(self, subject: str, score: np.ndarray, truth: np.ndarray) -> None:
        """Count pixels: `score` (m,) and `truth` (m,) bool."""
        bins = BINS - 1 - np.searchsorted(EDGES, score, side="right")
        found = np.bincount(bins + BINS * truth, minlength=2 * BINS).reshape(2, BINS)
        self._counts[subject] = self._counts.get(subject, 0) + found

    def measures(self, *, seed: int) -> dict[str, Any]:
        """As `detection`, of all pixels, resampling subjects; and `best_dice`."""
        counts = np.stack(list(self._counts.values())).astype(float)  # (S, 2, BINS)
        negative, positive = counts.sum(0)
        subjects = np.arange(len(counts))

        def resampled() -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for _, weights in Bootstrap(subjects, seed=seed, resamples=RESAMPLES).weights():
                sums = np.tensordot(weights.astype(float), counts, 1)  # (block, 2, BINS)
                yield sums[:, 1], sums[:, 0]

        return {
            "n": int(counts.sum()),
            "positive": int(positive.sum()),
            "groups": len(counts),
            **_measures(positive, negative, resampled() if len(counts) >= FEWEST else iter(()), units=len(counts)),
            "best_dice": best_dice(positive, negative) if positive.any() else None,
        }


def _measures(
    positive: np.ndarray, negative: np.ndarray, resampled: Iterator[tuple[np.ndarray, np.ndarray]], *, units: int
) -> dict[str, Any]:
    whole = areas(positive, negative)
    if not (np.isfinite(whole.auroc) and np.isfinite(whole.average_precision)):
        return {"auroc": None, "average_precision": None}
    parts = [areas(*each) for each in resampled]
    out: dict[str, Any] = {}
    for name in ("auroc", "average_precision"):
        values = np.concatenate([getattr(part, name) for part in parts]) if parts else np.zeros(0)
        out[name] = {"value": float(getattr(whole, name)), "ci95": interval(values, units)}
    return out


def subject_score(scores: Sequence[float] | np.ndarray) -> float:
    """One number from a subject's slices: the mean of the highest tenth of them, of one at least.

    Most slices of an ill head are healthy, and the single worst one is often the odd slice at an end of the range.

    >>> subject_score([0.0] * 18 + [3.0, 5.0]), subject_score([2.0])
    (4.0, 2.0)
    """
    ranked = np.sort(np.asarray(scores, float))[::-1]
    return float(ranked[: max(1, -(-len(ranked) // 10))].mean())


def detection_text(found: Mapping[str, Any]) -> str:
    """A row of measures in words.

    >>> detection_text({"auroc": {"value": 0.8, "ci95": [0.7, 0.9]}, "average_precision": {"value": 0.5, "ci95": None}})
    'AUROC 0.800 (0.700 to 0.900), average precision 0.500'
    """
    texts = []
    for name, title in (("auroc", "AUROC"), ("average_precision", "average precision")):
        measure = found[name]
        if measure:
            bounds = " ({:.3f} to {:.3f})".format(*measure["ci95"]) if measure["ci95"] else ""
            texts.append(f"{title} {measure['value']:.3f}{bounds}")
    return ", ".join(texts)
