"""What classifiers and regressors share: one small interface, and the affine map that most of them begin with.

All but the CNN begin with an affine map of the features: decision values (logistic, ridge, svm), similarities to the
training samples (knn), or hidden units (mlp). So each is fitted in the draw's row space (see rowspace.py), the map is
folded back onto the raw features, and scoring a test sample costs one matrix product.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from .rowspace import RowSpace
from .selection import Choice, Fit

Arrays = dict[str, np.ndarray]


class Learner(ABC):
    """What is fitted on a draw, and then answers for any features.

    Attributes:
        name: what cards call it.
        meaning: what `answers` are, in one sentence.
        chosen: the setting that cross-validation inside the draw chose, such as `{"C": 1.0}`; empty before `fit`.
        loss: the least cross-validated loss of any setting in `fit`: log loss per sample, or squared error; NaN before.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    chosen: dict[str, float]
    loss: float = math.nan

    @property
    @abstractmethod
    def columns(self) -> int:
        """A, the numbers of one answer: C probabilities of a classifier, 1 prediction of a regressor."""

    @abstractmethod
    def fit(self, x: np.ndarray, y: np.ndarray, *, units: np.ndarray | None = None, seed: int = 0) -> Self:
        """Standardise, choose the setting by cross-validation, and fit on all of `x`.

        Args:
            x: (n, F) float32, raw features of one draw.
            y: (n,) integer classes, or float64 targets.
            units: (n,) what cross-validation must keep together (subjects); each row by itself by default.
            seed: of the folds and of random starts.
        """

    @abstractmethod
    def answers(self, x: np.ndarray) -> np.ndarray:
        """Raw features (m, F) -> (m, A) float64."""

    @staticmethod
    @abstractmethod
    def decided(answers: np.ndarray) -> np.ndarray:
        """What answers (..., A) amount to: one class, or one number, for each sample."""

    @staticmethod
    @abstractmethod
    def pooled(answers: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """One answer for each group of samples: (..., T, A) and (T,) group numbers -> (..., G, A), groups ascending."""

    @abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that `from_state` needs: arrays, and a dictionary fit for JSON."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        """The inverse of `state`: a learner whose answers are the same to the last bit."""


class Affine(Learner):
    """What the learners that begin with an affine map share.

    A kind of learner says which `values` of its `setting` are tried (from the strongest regularisation to the
    weakest), by which score one is chosen (`_choose`), how to find the map and what else it needs in the row space
    (`_solve`), and how the map's outputs become answers (`_answers`).
    """

    setting: ClassVar[str]
    values: ClassVar[tuple[float, ...]]

    def __init__(self) -> None:
        self.chosen = {}
        self._arrays: Arrays = {}

    def fit(self, x: np.ndarray, y: np.ndarray, *, units: np.ndarray | None = None, seed: int = 0) -> Self:
        """See `Learner.fit`. The scaler is fitted once on the draw, without labels; folds share it."""
        with one_thread():
            self._fit(RowSpace(x), y, np.arange(len(y)) if units is None else units, seed)
        return self

    def _fit(self, space: RowSpace, y: np.ndarray, units: np.ndarray, seed: int) -> None:
        z = space.coordinates

        def fit_rows(rows: np.ndarray, value: float) -> Any:
            parts = self._solve(z[rows], y[rows], value, seed)
            return lambda held_out: self._answers(z[held_out] @ parts["weight"] + parts["bias"], parts)

        choice = self._choose(self._candidates(y), fit_rows, y, units, seed)
        self.loss = choice.loss
        self._arrays = self._solve(z, y, choice.value, seed)
        self._arrays["weight"], self._arrays["bias"] = space.fold(self._arrays["weight"], self._arrays["bias"])
        self.chosen = {self.setting: choice.value}

    def answers(self, x: np.ndarray) -> np.ndarray:
        """See `Learner.answers`."""
        return self.answers_to(x.astype(np.float32, copy=False) @ self.weight)

    @property
    def weight(self) -> np.ndarray:
        """(F, H) float32, of the affine map of raw features."""
        return self._arrays["weight"]

    def answers_to(self, products: np.ndarray) -> np.ndarray:
        """Raw features times `weight`, (m, H), which may come from a larger product -> answers (m, A)."""
        return self._answers(products + self._arrays["bias"], self._arrays)

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """See `Learner.state`."""
        return dict(self._arrays), {"classifier": self.name, "chosen": self.chosen}

    def _restored(self, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        self.chosen = dict(info["chosen"])
        self._arrays = dict(arrays)
        return self

    def _candidates(self, y: np.ndarray) -> tuple[float, ...]:
        return self.values

    @abstractmethod
    def _choose(
        self, values: Sequence[float], fit: Fit[float], y: np.ndarray, units: np.ndarray, seed: int
    ) -> Choice[float]:
        """One of the values, by cross-validation inside the draw."""

    @abstractmethod
    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        """Coordinates (n, r) float64 -> at least `weight` (r, H) and `bias` (H,)."""

    @abstractmethod
    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        """Outputs of the affine map (m, H) -> answers (m, A)."""


class NearestNeighbours(Affine):
    """k nearest training samples by Euclidean distance of the standardised features.

    Their weights fall linearly with rank, from k for the nearest to 1 (after Dudani 1976): that also breaks ties.
    """

    name = "knn"
    setting = "k"
    values = (45, 25, 15, 9, 5, 3, 1)

    def _candidates(self, y: np.ndarray) -> tuple[float, ...]:
        # A fold trains on at least half of the draw.
        return tuple(k for k in self.values if k <= max(1, len(y) // 2))

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        # |x - z|^2 = |x|^2 - 2 (x.z - |z|^2 / 2): the largest x.z - |z|^2 / 2 is the nearest. What x has outside the
        # row space adds the same to every distance.
        return {"weight": z.T, "bias": -(z**2).sum(axis=1) / 2, "labels": y, "k": np.array(int(value))}

    @staticmethod
    def _nearest(outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        """Labels of the nearest training samples, nearest first: (m, H) -> (m, k)."""
        k = min(int(arrays["k"]), outputs.shape[1])
        nearest = np.argpartition(-outputs, k - 1, axis=1)[:, :k]
        rank = np.argsort(-np.take_along_axis(outputs, nearest, axis=1), axis=1, kind="stable")
        labels: np.ndarray = arrays["labels"][np.take_along_axis(nearest, rank, axis=1)]
        return labels


class HiddenLayer(Affine):
    """One hidden layer of 32 rectified units, fitted by L-BFGS for at most 100 steps; the L2 penalty is chosen."""

    name = "mlp"
    setting = "alpha"
    values = (10.0, 1.0, 0.1)
    hidden: ClassVar[int] = 32
    steps: ClassVar[int] = 100  # reaching them is no failure: stopping early is part of the regularisation

    def _trained(self, kind: Any, z: np.ndarray, y: np.ndarray, alpha: float, seed: int) -> Arrays:
        """The two layers of a network of scikit-learn's, as maps of `z`."""
        from sklearn.exceptions import ConvergenceWarning

        # Rows have unit length; a network starts best from coordinates of unit size.
        size = 1 / max(float(np.sqrt((z**2).mean())), 1e-12)
        network = kind(
            hidden_layer_sizes=(self.hidden,), solver="lbfgs", alpha=alpha, max_iter=self.steps, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(z * size, y)
        (first, second), (bias, bias2) = network.coefs_, network.intercepts_
        return {"weight": first * size, "bias": bias, "weight2": second, "bias2": bias2}

    @staticmethod
    def _second(outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        """The second layer: (m, H) -> (m, outputs of the network)."""
        values: np.ndarray = np.maximum(outputs, 0) @ arrays["weight2"] + arrays["bias2"]
        return values


def one_thread() -> AbstractContextManager[object]:
    """One BLAS thread for the block.

    The matrices of a draw are small: a second thread gains little, and loses a factor of ten and more where the cores
    are shared. One thread also makes results independent of the number of cores.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
