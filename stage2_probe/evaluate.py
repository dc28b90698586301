"""One feature set through all draws: fit on the draw, score the test set once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toolkit_datasets.progress import Bar

from .features import FeatureSet, block_rows
from .learner import Learner, one_thread
from .task import Task


@dataclass(frozen=True)
class Outcome:
    """What one feature set gave at one size.

    Attributes:
        predicted: (draws, T) the class (integer) or target (float64) predicted for each test sample.
        answers: (draws, T, A) probabilities or predictions, or None where they were not asked for.
        chosen: the setting that each draw's cross-validation chose.
        features: the features that it chose, by their place among those offered.
        first: the learner of draw 0.
        of_groups: the same with one decision for each test group, with answers; None where samples are decided upon.
    """

    predicted: np.ndarray
    answers: np.ndarray | None
    chosen: tuple[dict[str, float], ...]
    features: tuple[int, ...]
    first: Learner
    of_groups: Outcome | None = None


def evaluate(
    offered: Sequence[FeatureSet],
    task: Task,
    draws: list[np.ndarray],
    create: Callable[[], Learner],
    *,
    seed: int,
    keep_answers: bool,
    bar: Bar,
) -> Outcome:
    """Fit a learner on every draw, then score the whole test set with each.

    Args:
        offered: features of pool and test. Of several each draw takes those with the least cross-validated loss; apart
            from the first, only those are tried that are no more than the draw has samples: cross-validation on few
            samples is too noisy to tell when many features pay.
        task: see task.py.
        draws: positions in the pool.
        create: makes a fresh learner.
        seed: draw i's folds and random starts follow from (seed, i).
        keep_answers: keep the probabilities, for metrics beyond accuracy.
        bar: counts draws.
    """
    fitted: list[Learner] = []
    places: list[int] = []
    with one_thread():
        for number, positions in enumerate(draws):
            tried = [place for place, each in enumerate(offered) if place == 0 or each.width <= len(positions)]
            learners = [
                create().fit(
                    offered[place].take(task.pool[positions]),
                    task.pool_y[positions],
                    units=task.pool_groups[positions],
                    seed=draw_seed(seed, number),
                )
                for place in tried
            ]
            best = int(np.nan_to_num([learner.loss for learner in learners], nan=np.inf).argmin())
            places.append(tried[best])
            fitted.append(learners[best])
            bar.update()
        answers = np.empty((len(draws), len(task.test), fitted[0].columns))
        for place in set(places):
            mine = [number for number, chosen in enumerate(places) if chosen == place]
            answers[mine] = score(offered[place], task.test, [fitted[number] for number in mine])
    outcome = Outcome(
        predicted=fitted[0].decided(answers),
        answers=answers if keep_answers else None,
        chosen=tuple(learner.chosen for learner in fitted),
        features=tuple(places),
        first=fitted[0],
    )
    if not task.by_group:
        return outcome
    pooled = fitted[0].pooled(answers, task.test_groups)  # (draws, G, A): small, so always kept
    return replace(outcome, of_groups=replace(outcome, predicted=fitted[0].decided(pooled), answers=pooled))


def score(features: FeatureSet, rows: np.ndarray, learners: Sequence[Learner]) -> np.ndarray:
    """Answers of several learners for rows of the store: (learners, rows, A) float64.

    Features are read once, block by block, however many learners there are.
    """
    result = np.empty((len(learners), len(rows), learners[0].columns))
    step = block_rows(features.width * 4)
    for start in range(0, len(rows), step):
        block = features.take(rows[start : start + step])
        for i, learner in enumerate(learners):
            result[i, start : start + step] = learner.answers(block)
    return result


def draw_seed(seed: int, number: int) -> int:
    """A seed below 2**32 for the folds and random starts of one draw."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
