"""Continuous targets: mean absolute error and R2 with their intervals.

MAE is in the unit of the labels, and smaller is better. R2 is relative to the test set's own mean, which no one who
predicts can know: to do as well as it gives 0, and the mean of the labels drawn stays a little below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from . import metrics
from .judge import CODES, Judge, Scores
from .predict import target_table
from .task import ContinuousTask


class Regression(Judge[ContinuousTask]):
    """See `Judge`; the constant is the mean of the labels drawn.

    The mean and not the median, which would have a somewhat smaller MAE where targets are skewed: all regressors here
    minimise squared errors, so the mean is what they predict when features tell them nothing. The difference to it is
    what the features add, in MAE as in R2.
    """

    constant = "mean"
    measures = ("mae", "r2", "rmse", "pearson")
    number_format = "%.9g"

    def _scores(self) -> dict[str, dict[str, dict[int, Scores]]]:
        target = self.task.test_y
        predicted = {
            (name, size): outcome.predicted
            for name, by_size in self.outcomes.items()
            for size, outcome in by_size.items()
        }
        for size, of_size in self.draws.items():
            means = np.array([self.task.pool_y[positions].mean() for positions in of_size])
            predicted[self.constant, size] = np.broadcast_to(means[:, None], (len(of_size), len(target)))
        resampled = {
            "mae": self.bootstrap.resample(predicted, lambda rows: self.bootstrap.means(np.abs(rows - target))),
            "r2": self.bootstrap.resample(predicted, lambda rows: self.bootstrap.r2(rows, target)),
        }
        scores: dict[str, dict[str, dict[int, Scores]]] = {}
        for measure, found in resampled.items():
            function: Callable[[np.ndarray, np.ndarray], float | None] = getattr(metrics, measure)
            for (name, size), values in found.items():
                per_draw = [function(target, row) for row in predicted[name, size]]
                found_here = Scores(np.array(per_draw, float), values, self.units)
                scores.setdefault(measure, {}).setdefault(name, {})[size] = found_here
        return scores

    def constant_title(self) -> str:
        """See `Judge.constant_title`."""
        return "always the mean of the labels drawn"

    def results(self) -> dict[str, Any]:
        """See `Judge.results`."""
        target, predicted = self.task.test_y, self.main.predicted
        return {
            "target": {"pool": _spread(self.task.pool_y), "test": _spread(target)},
            "mae": self.scores["mae"][CODES][self.labels].summary(),
            "r2": self.scores["r2"][CODES][self.labels].summary(),
            "rmse": metrics.mean_sd([metrics.rmse(target, row) for row in predicted]),
            "pearson": metrics.mean_sd([metrics.pearson(target, row) for row in predicted]),
            "per_draw": [
                {"draw": number, "mae": metrics.mae(target, row), "r2": metrics.r2(target, row), "chosen": chosen}
                for number, (row, chosen) in enumerate(zip(predicted, self.main.chosen, strict=True))
            ],
        }

    def baseline(self, name: str) -> dict[str, Any]:
        """See `Judge.baseline`; a negative difference of MAE and a positive one of R2 speak for the codes."""
        pairs = {
            measure: (found[CODES][self.labels], found[name][self.labels]) for measure, found in self.scores.items()
        }
        return {
            **{measure: other.summary() for measure, (_, other) in pairs.items()},
            "difference": {measure: codes.minus(other) for measure, (codes, other) in pairs.items()},
        }

    def saved_scores(self) -> dict[str, float | None]:
        """See `Judge.saved_scores`."""
        target, predicted = self.task.test_y, self.main.predicted[0]
        return {"mae": metrics.mae(target, predicted), "r2": metrics.r2(target, predicted)}

    def predictions(self, cases: pd.DataFrame) -> pd.DataFrame:
        """See `Judge.predictions`: the names, target, prediction, mean_absolute_error (over the draws)."""
        table = target_table(cases, self.main.predicted[0])
        table.insert(2, "target", self.task.test_y)
        table["mean_absolute_error"] = np.abs(self.main.predicted - self.task.test_y).mean(axis=0)
        return table


def _spread(targets: np.ndarray) -> dict[str, float]:
    """Mean, sd and range of targets."""
    return {
        "mean": float(targets.mean()),
        "sd": float(targets.std()),
        "min": float(targets.min()),
        "max": float(targets.max()),
    }
