"""Classes: accuracy with its interval, and what else a confusion matrix tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import metrics
from .intervals import interval
from .judge import CODES, Judge, Scores
from .predict import class_table
from .task import ClassTask

PAIRS = 250_000  # of a positive and a negative test case: up to here an AUROC has an interval, in a second or so


class Classification(Judge[ClassTask]):
    """See `Judge`; the constant is the most frequent class of the pool."""

    constant = "majority"
    measures = ("accuracy", "balanced_accuracy", "auroc", "f1")
    number_format = "%.6f"

    def _scores(self) -> dict[str, dict[str, dict[int, Scores]]]:
        correct = {
            (name, size): outcome.predicted == self.task.test_y
            for name, by_size in self.outcomes.items()
            for size, outcome in by_size.items()
        }
        always = self.task.test_y == self._majority()
        for size in self.outcomes[CODES]:
            correct[self.constant, size] = np.broadcast_to(always, correct[CODES, size].shape)
        scores: dict[str, dict[int, Scores]] = {}
        for (name, size), resampled in self.bootstrap.resample(correct).items():
            scores.setdefault(name, {})[size] = Scores(correct[name, size].mean(axis=1), resampled, self.units, True)
        return {"accuracy": scores}

    def _majority(self) -> int:
        return int(np.bincount(self.task.pool_y, minlength=len(self.task.classes)).argmax())

    def constant_title(self) -> str:
        """See `Judge.constant_title`."""
        return f"always {self.task.classes[self._majority()]!r}, the most frequent class of the pool"

    def results(self) -> dict[str, Any]:
        """See `Judge.results`."""
        counts = self._confusions()
        return {
            "classes": list(self.task.classes),
            "accuracy": self.scores["accuracy"][CODES][self.labels].summary(),
            "balanced_accuracy": metrics.mean_sd([metrics.balanced_accuracy(c) for c in counts]),
            "auroc": self._auroc(CODES),
            "f1": metrics.mean_sd([metrics.macro_f1(c) for c in counts]),
            "confusion": np.mean(counts, axis=0).tolist(),
            "per_draw": [
                {"draw": number, "accuracy": metrics.accuracy(c), "chosen": chosen}
                for number, (c, chosen) in enumerate(zip(counts, self.main.chosen, strict=True))
            ],
        }

    def baseline(self, name: str) -> dict[str, Any]:
        """See `Judge.baseline`; with `auroc` where the baseline's answers were kept."""
        codes, other = (self.scores["accuracy"][key][self.labels] for key in (CODES, name))
        auroc = self._auroc(name)
        return {
            "accuracy": other.summary(),
            **({"auroc": auroc} if auroc else {}),
            "difference": codes.minus(other),
        }

    def saved_scores(self) -> dict[str, float | None]:
        """See `Judge.saved_scores`."""
        return {"accuracy": metrics.accuracy(self._confusions()[0])}

    def predictions(self, cases: pd.DataFrame) -> pd.DataFrame:
        """See `Judge.predictions`: the names, label, predicted, p_<class>, share_right (of the draws)."""
        assert self.main.answers is not None
        table = class_table(cases, self.main.answers[0], self.task.classes)
        table.insert(2, "label", np.array(self.task.classes, dtype=object)[self.task.test_y])
        table["share_right"] = (self.main.predicted == self.task.test_y).mean(axis=0)
        return table

    def _auroc(self, name: str) -> dict[str, Any] | None:
        """Mean, sd and, of two classes, `ci95`; None where no answers were kept."""
        answers = self.outcomes[name][self.labels].answers if name in self.outcomes else None
        if answers is None:
            return None
        truth = self.task.test_y
        found: dict[str, Any] = metrics.mean_sd([metrics.auroc(truth, of_draw) for of_draw in answers])
        positive = truth == 1
        if len(self.task.classes) == 2 and positive.sum() * (~positive).sum() <= PAIRS:
            resampled = self.bootstrap.over_draws(self.bootstrap.auroc(answers[:, :, 1], positive))
            found["ci95"] = interval(resampled, self.units)
        return found

    def _confusions(self) -> list[np.ndarray]:
        n_classes = len(self.task.classes)
        return [metrics.confusion(self.task.test_y, predicted, n_classes) for predicted in self.main.predicted]
