"""One feature set through all draws: fit on the draw, score the test set once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from toolkit_datasets.progress import Bar

from .classifiers import Classifier, one_thread
from .draws import Task
from .features import FeatureSet, block_rows


@dataclass(frozen=True)
class Outcome:
    """What one feature set gave at one size.

    Attributes:
        correct: (draws, T) whether each test sample was predicted rightly.
        shares: (draws, T, C) probabilities, or None where they were not asked for.
        chosen: the setting that each draw's cross-validation chose.
        first: the classifier of draw 0.
    """

    correct: np.ndarray
    shares: np.ndarray | None
    chosen: tuple[dict[str, float], ...]
    first: Classifier


def evaluate(
    features: FeatureSet,
    task: Task,
    draws: list[np.ndarray],
    create: Callable[[], Classifier],
    *,
    seed: int,
    keep_shares: bool,
    bar: Bar,
) -> Outcome:
    """Fit a classifier on every draw, then score the whole test set with each.

    Args:
        features: of pool and test.
        task: see draws.py.
        draws: positions in the pool.
        create: makes a fresh classifier.
        seed: draw i's folds and random starts follow from (seed, i).
        keep_shares: keep the probabilities, for metrics beyond accuracy.
        bar: counts draws.
    """
    fitted = []
    with one_thread():
        for number, positions in enumerate(draws):
            x = features.take(task.pool[positions])
            classifier = create().fit(
                x, task.pool_y[positions], units=task.pool_groups[positions], seed=draw_seed(seed, number)
            )
            fitted.append(classifier)
            bar.update()
        shares = score(features, task.test, fitted)
    predicted = shares.argmax(axis=2)
    return Outcome(
        correct=predicted == task.test_y,
        shares=shares if keep_shares else None,
        chosen=tuple(classifier.chosen for classifier in fitted),
        first=fitted[0],
    )


def score(features: FeatureSet, rows: np.ndarray, classifiers: list[Classifier]) -> np.ndarray:
    """Probabilities of several classifiers for rows of the store: (classifiers, rows, C) float64.

    Features are read once, block by block, however many classifiers there are.
    """
    result = np.empty((len(classifiers), len(rows), classifiers[0].n_classes))
    step = block_rows(features.width * 4)
    for start in range(0, len(rows), step):
        block = features.take(rows[start : start + step])
        for i, classifier in enumerate(classifiers):
            result[i, start : start + step] = classifier.probabilities(block)
    return result


def draw_seed(seed: int, number: int) -> int:
    """A seed below 2**32 for the folds and random starts of one draw."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
