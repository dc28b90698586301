"""One feature set through all draws of all sizes: fit on each draw, then score the test set once, all of them together.

Only the rows of the draws are held in memory, some thousands. The test set is read block by block, and every learner
answers for a block before the next one is read: memory for features does not grow with the number of test samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toolkit_datasets.progress import Bar

from .features import FeatureSet, block_rows
from .learner import Learner, one_thread
from .panel import Panel
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
    draws: Mapping[int, Sequence[np.ndarray]],
    create: Callable[[], Learner],
    *,
    seed: int,
    keep_answers: int | None,
    bar: Bar,
) -> dict[int, Outcome]:
    """Fit a learner on every draw, then score the whole test set with each.

    Args:
        offered: features of pool and test. Of several each draw takes those with the least cross-validated loss; apart
            from the first, only those are tried that are no more than the draw has samples: cross-validation on few
            samples is too noisy to tell when many features pay.
        task: see task.py.
        draws: size -> positions in the pool.
        create: makes a fresh learner.
        seed: draw i's folds and random starts follow from (seed, i).
        keep_answers: the size whose probabilities are kept, for metrics beyond accuracy.
        bar: counts draws.
    """
    drawn = np.unique(np.concatenate([positions for of_size in draws.values() for positions in of_size]))
    near = [features.held(task.pool[drawn]) for features in offered]
    fitted: dict[int, list[Fitted]] = {}
    with one_thread():
        for size, of_size in draws.items():
            fitted[size] = []
            for number, positions in enumerate(of_size):
                fitted[size].append(_fit(near, task, positions, create, seed=draw_seed(seed, number)))
                bar.update()
        del near
        return _score_all(offered, task, fitted, keep_answers=keep_answers, bar=bar)


@dataclass(frozen=True)
class Fitted:
    """What a draw gave: its learner, and which of the features on offer that one reads."""

    learner: Learner
    place: int


def _fit(
    near: Sequence[FeatureSet], task: Task, positions: np.ndarray, create: Callable[[], Learner], *, seed: int
) -> Fitted:
    tried = [place for place, each in enumerate(near) if place == 0 or each.width <= len(positions)]
    learners = [
        create().fit(
            near[place].take(task.pool[positions]),
            task.pool_y[positions],
            units=task.pool_groups[positions],
            seed=seed,
        )
        for place in tried
    ]
    best = int(np.nan_to_num([learner.loss for learner in learners], nan=np.inf).argmin())
    return Fitted(learners[best], tried[best])


def _score_all(
    offered: Sequence[FeatureSet],
    task: Task,
    fitted: Mapping[int, Sequence[Fitted]],
    *,
    keep_answers: int | None,
    bar: Bar,
) -> dict[int, Outcome]:
    """The test set once for each of the features on offer: whoever reads them answers, block by block."""
    sheets = {size: _Sheet(task, of_size, keep_answers=size == keep_answers) for size, of_size in fitted.items()}
    for place, features in enumerate(offered):
        readers = [
            (sheets[size], number, each.learner)
            for size, of_size in fitted.items()
            for number, each in enumerate(of_size)
            if each.place == place
        ]
        panel = Panel([learner for *_, learner in readers])
        for block in _blocks(task, block_rows(features.width * 4)) if readers else ():
            answers = panel.answers(features.take(task.test[block.positions]))
            for (sheet, number, learner), of_learner in zip(readers, answers, strict=True):
                sheet.add(number, learner, block, of_learner)
            bar.set_postfix_str(f"{block.done:,} of {len(task.test):,} test samples")
    return {size: sheet.outcome() for size, sheet in sheets.items()}


@dataclass(frozen=True)
class _Block:
    """Some of the test samples; where groups are decided upon, whole groups."""

    positions: np.ndarray | slice  # among the test samples
    groups: np.ndarray  # (positions,) their group numbers
    first_group: int  # place of the first of them among all groups, ascending
    done: int  # samples so far, with these


def _blocks(task: Task, rows: int) -> Iterator[_Block]:
    """The test samples in order, `rows` at a time; where groups are decided upon, group by group, and somewhat more."""
    total = len(task.test)
    if not task.by_group:
        for start in range(0, total, rows):
            stop = min(start + rows, total)
            yield _Block(slice(start, stop), task.test_groups[start:stop], 0, stop)
        return
    order = np.argsort(task.test_groups, kind="stable")
    groups = task.test_groups[order]
    ends = np.append(np.flatnonzero(np.diff(groups)) + 1, total)  # where each group stops
    start = group = 0
    while start < total:
        last = int(np.searchsorted(ends, min(start + rows, total)))
        stop = int(ends[last])
        yield _Block(order[start:stop], groups[start:stop], group, stop)
        start, group = stop, last + 1


class _Sheet:
    """What the learners of one size have answered so far; of that, only what is needed later."""

    def __init__(self, task: Task, fitted: Sequence[Fitted], *, keep_answers: bool) -> None:
        self._fitted, first = fitted, fitted[0].learner
        n, columns = len(fitted), first.columns
        kind = first.decided(np.zeros((1, columns))).dtype
        self._predicted = np.empty((n, len(task.test)), kind)
        self._answers = np.empty((n, len(task.test), columns)) if keep_answers else None
        groups = len(np.unique(task.test_groups)) if task.by_group else 0
        self._pooled = np.empty((n, groups, columns)) if task.by_group else None  # small, so always kept

    def add(self, number: int, learner: Learner, block: _Block, answers: np.ndarray) -> None:
        """Take down what learner `number` answers for the samples of a block, (m, A)."""
        self._predicted[number, block.positions] = learner.decided(answers)
        if self._answers is not None:
            self._answers[number, block.positions] = answers
        if self._pooled is not None:
            pooled = learner.pooled(answers, block.groups)
            self._pooled[number, block.first_group : block.first_group + len(pooled)] = pooled

    def outcome(self) -> Outcome:
        """All of it."""
        first = self._fitted[0].learner
        outcome = Outcome(
            predicted=self._predicted,
            answers=self._answers,
            chosen=tuple(each.learner.chosen for each in self._fitted),
            features=tuple(each.place for each in self._fitted),
            first=first,
        )
        if self._pooled is None:
            return outcome
        return replace(outcome, of_groups=replace(outcome, predicted=first.decided(self._pooled), answers=self._pooled))


def score(features: FeatureSet, rows: np.ndarray, learner: Learner) -> np.ndarray:
    """Answers of one learner for rows of the store, (rows, A) float64; features are read block by block."""
    result = np.empty((len(rows), learner.columns))
    step = block_rows(features.width * 4)
    for start in range(0, len(rows), step):
        result[start : start + step] = learner.answers(features.take(rows[start : start + step]))
    return result


def draw_seed(seed: int, number: int) -> int:
    """A seed below 2**32 for the folds and random starts of one draw."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
