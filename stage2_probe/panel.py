"""A panel of learners that read the same features: what each of them answers, for one pass over the samples.

All but the CNN begin with an affine map of the features. Those of the whole panel are one matrix product, which fetches
the features from memory once; a product for each learner would fetch them as often as there are learners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .learner import Affine, Learner

COLUMNS = 512  # of one product: its outputs for 2,048 samples take 4 MB, the neighbours of many draws far more


class Panel:
    """See the module's head.

    Args:
        learners: fitted, on the same kind of features.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self._benches: list[list[Learner]] = []
        width = COLUMNS + 1
        for learner in learners:
            own = learner.weight.shape[1] if isinstance(learner, Affine) else COLUMNS
            if width + own > COLUMNS:
                self._benches.append([])
                width = 0
            self._benches[-1].append(learner)
            width += own
        self._weights = [_stacked(bench) for bench in self._benches]

    def answers(self, x: np.ndarray) -> Iterator[np.ndarray]:
        """Answers (m, A) of one learner after the other to raw features (m, F)."""
        x = x.astype(np.float32, copy=False)
        for bench, weight in zip(self._benches, self._weights, strict=True):
            if weight is None:
                yield from (learner.answers(x) for learner in bench)
                continue
            outputs = x @ weight  # (m, columns of the bench)
            column = 0
            for learner in bench:
                assert isinstance(learner, Affine)
                width = learner.weight.shape[1]
                yield learner.answers_to(outputs[:, column : column + width])
                column += width


def _stacked(bench: Sequence[Learner]) -> np.ndarray | None:
    """The weights (F, columns) of a bench; None where one of it has none."""
    weights = [learner.weight for learner in bench if isinstance(learner, Affine)]
    if len(weights) < len(bench):
        return None
    return weights[0] if len(weights) == 1 else np.concatenate(weights, axis=1)
