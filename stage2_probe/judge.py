"""What the outcomes of a probe are worth: scores of every feature set, paired by draw and by resample.

`Classification` and `Regression` are the two judges; each says which measures there are and what a constant answer,
which looks at no feature, would have got.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import numpy as np
import pandas as pd

from . import metrics
from .evaluate import Outcome
from .intervals import Bootstrap, interval, share_interval
from .task import AnyTask

CODES = "codes"


@dataclass(frozen=True)
class Scores:
    """One measure of one feature set at one size; NaN where it is undefined."""

    per_draw: np.ndarray  # (draws,)
    resampled: np.ndarray  # (B,)
    units: int  # test groups: what was resampled
    is_share: bool = False  # of right answers, so that an interval of no width has exact limits

    def summary(self) -> dict[str, Any]:
        """Mean, sd and `ci95`, None where undefined."""
        values = [float(value) if np.isfinite(value) else None for value in self.per_draw]
        bounds = share_interval if self.is_share else interval
        return {**metrics.mean_sd(values), "ci95": bounds(self.resampled, self.units)}

    def minus(self, other: Scores) -> dict[str, Any]:
        """The paired difference to another feature set."""
        mean = float((self.per_draw - other.per_draw).mean())
        return {
            "mean": mean if np.isfinite(mean) else None,
            "ci95": interval(self.resampled - other.resampled, self.units),
        }


class Judge(ABC, Generic[AnyTask]):
    """Judges the outcomes of all feature sets.

    Attributes:
        constant: name of the baseline that knows labels only.
        measures: the scores among `results`, each with at least a mean.
        number_format: of the numbers in predictions.csv.
        scores: measure -> feature set (the constant among them) -> size -> scores.
    """

    constant: ClassVar[str]
    measures: ClassVar[tuple[str, ...]]
    number_format: ClassVar[str]
    scores: dict[str, dict[str, dict[int, Scores]]]

    def __init__(
        self,
        task: AnyTask,
        outcomes: Mapping[str, Mapping[int, Outcome]],
        draws: Mapping[int, list[np.ndarray]],
        *,
        labels: int,
        seed: int,
    ) -> None:
        self.task, self.outcomes, self.draws, self.labels = task, outcomes, draws, labels
        self.main = outcomes[CODES][labels]
        self.units = len(np.unique(task.test_groups))
        self.bootstrap = Bootstrap(task.test_groups, seed=seed)
        self.scores = self._scores()

    @abstractmethod
    def _scores(self) -> dict[str, dict[str, dict[int, Scores]]]:
        """Every measure of every feature set and size, resampled together so that they are paired."""

    @abstractmethod
    def constant_title(self) -> str:
        """What the constant answers."""

    @abstractmethod
    def results(self) -> dict[str, Any]:
        """How good the codes are, and what they were judged on."""

    @abstractmethod
    def baseline(self, name: str) -> dict[str, Any]:
        """How good a baseline is, and `difference`: codes minus this baseline, paired by draw and by resample."""

    @abstractmethod
    def saved_scores(self) -> dict[str, float | None]:
        """Scores of the learner that is saved, that of draw 0."""

    @abstractmethod
    def predictions(self, cases: pd.DataFrame) -> pd.DataFrame:
        """The test cases, named by two columns, with truth and prediction of draw 0, and how all draws did."""

    def figures(self) -> dict[str, Any]:
        """The scores among `results`."""
        found = self.results()
        return {measure: found[measure] for measure in self.measures}

    def curve(self, sizes: tuple[int, ...]) -> dict[str, Any]:
        """Every measure of every feature set by number of labels."""
        kept = [size for size in dict.fromkeys(sizes) if size in self.draws]
        return {
            "labels": kept,
            "draws": [len(self.draws[size]) for size in kept],
            **{
                measure: {name: [by_size[size].summary() for size in kept] for name, by_size in found.items()}
                for measure, found in self.scores.items()
            },
        }
