"""Regressors of continuous targets: `ridge`, `knn` and `mlp`, with the names and the interface of the classifiers.

All minimise a squared error, so that what they predict without any information is the mean. The one setting is chosen
by grouped cross-validation of the squared error inside the draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from toolkit_datasets.errors import ToolkitError

from . import linear
from .groups import group_means
from .learner import Affine, Arrays, HiddenLayer, Learner, NearestNeighbours
from .selection import Choice, Fit, choose_by_error

NAMES = ("ridge", "knn", "mlp")
LINEAR = "ridge"


class Regressor(Learner):
    """A regressor of F features onto one number, in the unit of the targets; its answers are (m, 1) predictions."""

    meaning = "predicted target, in the unit of the labels"

    @property
    def columns(self) -> int:
        """See `Learner.columns`."""
        return 1

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Raw features (m, F) -> (m,) float64."""
        return self.decided(self.answers(x))

    @staticmethod
    def decided(answers: np.ndarray) -> np.ndarray:
        """See `Learner.decided`: the prediction itself."""
        prediction: np.ndarray = answers[..., 0]
        return prediction

    @staticmethod
    def pooled(answers: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See `Learner.pooled`: the mean of the samples' predictions, as squared errors have it."""
        return group_means(answers, groups)


class AffineRegressor(Affine, Regressor):
    """What the regressors share; all of them begin with an affine map."""

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        """See `Learner.from_state`."""
        return cls()._restored(arrays, info)

    def _choose(
        self, values: Sequence[float], fit: Fit[float], y: np.ndarray, units: np.ndarray, seed: int
    ) -> Choice[float]:
        return choose_by_error(values, fit, y, units, seed=seed)


class Ridge(AffineRegressor):
    """Least squares with an L2 penalty, in closed form.

    `alpha` is the penalty for rows of unit length: scikit-learn's `Ridge(alpha=alpha * F)` on features that are only
    standardised.
    """

    name = "ridge"
    setting = "alpha"
    # The draw's rows have unit length: 1000 predicts little but the mean at 100 labels, 0.001 hardly shrinks.
    values: ClassVar[tuple[float, ...]] = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01, 0.001)

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.least_squares(z, y[:, None], alpha=value)
        return {"weight": weight, "bias": bias}

    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        return outputs.astype(np.float64, copy=False)


class Neighbours(NearestNeighbours, AffineRegressor):
    """Rank-weighted mean of the nearest training samples' targets; see `NearestNeighbours`."""

    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        targets = self._nearest(outputs, arrays)
        weights = np.arange(targets.shape[1], 0, -1)
        mean: np.ndarray = (targets @ weights / weights.sum())[:, None]
        return mean


class MLP(HiddenLayer, AffineRegressor):
    """A network with one hidden layer, fitted on standardised targets; see `HiddenLayer`."""

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        from sklearn.neural_network import MLPRegressor

        mean, sd = y.mean(), y.std() or 1.0
        arrays = self._trained(MLPRegressor, z, (y - mean) / sd, value, seed)
        return {**arrays, "weight2": arrays["weight2"] * sd, "bias2": arrays["bias2"] * sd + mean}

    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        return self._second(outputs, arrays)


def name_for(classifier: str) -> str:
    """The regressor that `probe.classifier` stands for where the targets are continuous.

    `logistic`, every card's default, has no meaning for numbers; its counterpart is `ridge`, the other linear model
    with an L2 penalty. Results name the regressor that was used.

    Raises:
        ToolkitError: a classifier that has no regressor.
    """
    name = LINEAR if classifier == "logistic" else classifier
    if name not in NAMES:
        raise ToolkitError(
            f"probe.classifier = {classifier!r} predicts classes, but labels.kind = 'continuous': set probe.classifier "
            f"to one of {', '.join(NAMES)}, or labels.kind to class"
        )
    return name


def create(name: str) -> Regressor:
    """A fresh regressor by its name, one of `NAMES`."""
    return _kind(name)()


def restore(arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Regressor:
    """The regressor whose `state()` was (arrays, info)."""
    return _kind(info["classifier"]).from_state(arrays, info)


def _kind(name: str) -> type[AffineRegressor]:
    kinds: dict[str, type[AffineRegressor]] = {kind.name: kind for kind in (Ridge, Neighbours, MLP)}
    if name not in kinds:
        raise ToolkitError(f"no regressor called {name!r}: choose one of {', '.join(NAMES)}")
    return kinds[name]
