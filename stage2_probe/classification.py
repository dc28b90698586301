"""Classes: accuracy with its interval, and what else a confusion matrix tells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from . import metrics
from .intervals import Bootstrap
from .judge import CODES, Judge, Scores
from .predict import class_table
from .task import ClassTask


class Classification(Judge[ClassTask]):
    """See `Judge`; the constant is the most frequent class of the pool."""

    constant = "majority"
    number_format = "%.6f"

    def _scores(self, seed: int) -> dict[str, dict[str, dict[int, Scores]]]:
        correct = {
            (name, size): outcome.predicted == self.task.test_y
            for name, by_size in self.outcomes.items()
            for size, outcome in by_size.items()
        }
        always = self.task.test_y == self._majority()
        for size in self.outcomes[CODES]:
            correct[self.constant, size] = np.broadcast_to(always, correct[CODES, size].shape)
        scores: dict[str, dict[int, Scores]] = {}
        for (name, size), resampled in Bootstrap(self.task.test_groups, seed=seed).resample(correct).items():
            scores.setdefault(name, {})[size] = Scores(correct[name, size].mean(axis=1), resampled)
        return {"accuracy": scores}

    def _majority(self) -> int:
        return int(np.bincount(self.task.pool_y, minlength=len(self.task.classes)).argmax())

    def constant_title(self) -> str:
        """See `Judge.constant_title`."""
        return f"always {self.task.classes[self._majority()]!r}, the most frequent class of the pool"

    def results(self) -> dict[str, Any]:
        """See `Judge.results`."""
        truth, counts = self.task.test_y, self._confusions()
        shares = self._shares()
        return {
            "classes": list(self.task.classes),
            "accuracy": self.scores["accuracy"][CODES][self.labels].summary(),
            "balanced_accuracy": metrics.mean_sd([metrics.balanced_accuracy(c) for c in counts]),
            "auroc": metrics.mean_sd([metrics.auroc(truth, of_draw) for of_draw in shares]),
            "f1": metrics.mean_sd([metrics.macro_f1(c) for c in counts]),
            "confusion": np.mean(counts, axis=0).tolist(),
            "per_draw": [
                {"draw": number, "accuracy": metrics.accuracy(c), "chosen": chosen}
                for number, (c, chosen) in enumerate(zip(counts, self.main.chosen, strict=True))
            ],
        }

    def baseline(self, name: str) -> dict[str, Any]:
        """See `Judge.baseline`."""
        codes, other = (self.scores["accuracy"][key][self.labels] for key in (CODES, name))
        return {"accuracy": other.summary(), "difference": codes.minus(other)}

    def saved_scores(self) -> dict[str, float | None]:
        """See `Judge.saved_scores`."""
        return {"accuracy": metrics.accuracy(self._confusions()[0])}

    def predictions(self, manifest: pd.DataFrame) -> pd.DataFrame:
        """See `Judge.predictions`: file, id, label, predicted, p_<class>, share_right (of the draws)."""
        table = class_table(manifest.iloc[self.task.test], self._shares()[0], self.task.classes)
        table.insert(2, "label", np.array(self.task.classes, dtype=object)[self.task.test_y])
        table["share_right"] = (self.main.predicted == self.task.test_y).mean(axis=0)
        return table

    def _shares(self) -> np.ndarray:
        assert self.main.answers is not None
        return self.main.answers

    def _confusions(self) -> list[np.ndarray]:
        n_classes = len(self.task.classes)
        return [metrics.confusion(self.task.test_y, predicted, n_classes) for predicted in self.main.predicted]
