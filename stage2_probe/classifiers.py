"""The classifiers, behind one small interface: `fit`, `probabilities`, `state` and `from_state` (see learner.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from toolkit_datasets.errors import ToolkitError

from . import linear
from .groups import group_means
from .learner import Affine, Arrays, HiddenLayer, Learner, NearestNeighbours
from .selection import Choice, Fit, choose

NAMES = ("logistic", "ridge", "svm", "knn", "mlp", "cnn")
SUREST = 1e-3  # no sample counts as surer than 1,000 to 1: a single one must not outvote all others of its subject


class Classifier(Learner):
    """A classifier of F features into C classes, numbered 0 to C - 1.

    Its answers are (m, C) probabilities in [0, 1] that sum to one; the largest is the prediction.

    Attributes:
        n_classes: C.
    """

    n_classes: int
    calibrated: ClassVar[bool] = True  # answers are meant as probabilities, not only as an order

    @property
    def columns(self) -> int:
        """See `Learner.columns`."""
        return self.n_classes

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Raw features (m, F) -> (m, C) float64."""
        return self.answers(x)

    @staticmethod
    def decided(answers: np.ndarray) -> np.ndarray:
        """See `Learner.decided`: the class of the largest probability, in the smallest integers that hold C."""
        classes: np.ndarray = answers.argmax(axis=-1).astype(np.min_scalar_type(answers.shape[-1] - 1))
        return classes

    @staticmethod
    def pooled(answers: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """See `Learner.pooled`: the mean of the samples' log-odds, as probabilities again.

        For the linear classifiers that is what they say of the mean of the samples' features: the same rule, applied to
        the person. A mean and not a sum, which would take slices of one head for independent witnesses. A mean of
        probabilities would make each slice's vote much the same, however clear it is.
        """
        odds = group_means(np.log(np.maximum(answers, SUREST)), groups)  # up to a constant of each row
        shares = np.exp(odds - odds.max(axis=-1, keepdims=True))
        pooled: np.ndarray = shares / shares.sum(axis=-1, keepdims=True)
        return pooled


class AffineClassifier(Affine, Classifier):
    """What the classifiers that begin with an affine map share."""

    def __init__(self, *, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """See `Learner.state`."""
        arrays, info = super().state()
        return arrays, {**info, "n_classes": self.n_classes}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        """See `Learner.from_state`."""
        return cls(n_classes=int(info["n_classes"]))._restored(arrays, info)

    def _choose(
        self, values: Sequence[float], fit: Fit[float], y: np.ndarray, units: np.ndarray, seed: int
    ) -> Choice[float]:
        return choose(values, fit, y, units, probabilities=self.calibrated, seed=seed)


class Logistic(AffineClassifier):
    """Logistic regression with an L2 penalty; softmax regression for more than two classes."""

    name = "logistic"
    meaning = "probabilities of the logistic model"
    setting = "C"
    # For rows of unit length: from the nearest class mean to hardly any penalty.
    values: ClassVar[tuple[float, ...]] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.logistic(z, y, n_classes=self.n_classes, C=value)
        return {"weight": weight, "bias": bias}

    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        return linear.softmax(outputs)


class Ridge(Logistic):
    """Least squares on targets of -1 and 1 with an L2 penalty."""

    name = "ridge"
    meaning = "softmax of the decision values: they rank, but they are not calibrated probabilities"
    calibrated = False

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.ridge(z, y, n_classes=self.n_classes, C=value)
        return {"weight": weight, "bias": bias}


class SVM(Logistic):
    """Linear support vector machine with the squared hinge loss, one class against the rest."""

    name = "svm"
    meaning = Ridge.meaning
    calibrated = False
    values = (0.01, 0.1, 1.0, 10.0, 100.0)

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.svm(z, y, n_classes=self.n_classes, C=value)
        return {"weight": weight, "bias": bias}


class Neighbours(NearestNeighbours, AffineClassifier):
    """Votes of the nearest training samples; see `NearestNeighbours`."""

    meaning = "rank-weighted share of the k nearest training samples"
    calibrated = False

    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        labels = self._nearest(outputs, arrays)
        k = labels.shape[1]
        votes = np.zeros((len(outputs), self.n_classes))
        for place in range(k):
            votes[np.arange(len(outputs)), labels[:, place]] += k - place
        shares: np.ndarray = votes / votes.sum(axis=1, keepdims=True)
        return shares


class MLP(HiddenLayer, AffineClassifier):
    """A network with one hidden layer; see `HiddenLayer`."""

    meaning = "probabilities of the network"

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        from sklearn.neural_network import MLPClassifier

        return self._trained(MLPClassifier, z, y, value, seed)

    def _answers(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        return linear.softmax(self._second(outputs, arrays))


def create(name: str, *, n_classes: int, shape: tuple[int, int, int] | None = None, device: str = "cpu") -> Classifier:
    """A fresh classifier by its card name.

    Args:
        name: one of `NAMES`.
        n_classes: C.
        shape: (D, h, w) of the code grid, which the features are the flattened form of; only the CNN needs it.
        device: of the CNN.
    """
    if name == "cnn":
        if shape is None:
            raise ToolkitError("the cnn needs a code grid: set probe.classifier to another one for other features")
        cnn: Any = _cnn()
        network: Classifier = cnn(n_classes=n_classes, shape=shape, device=device)
        return network
    return _kind(name)(n_classes=n_classes)


def restore(arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Classifier:
    """The classifier whose `state()` was (arrays, info)."""
    name = info["classifier"]
    kind: type[Classifier] = _cnn() if name == "cnn" else _kind(name)
    return kind.from_state(arrays, info)


def _kind(name: str) -> type[AffineClassifier]:
    kinds: dict[str, type[AffineClassifier]] = {kind.name: kind for kind in (Logistic, Ridge, SVM, Neighbours, MLP)}
    if name not in kinds:
        raise ToolkitError(f"no classifier called {name!r}: set probe.classifier to one of {', '.join(NAMES)}")
    return kinds[name]


def _cnn() -> type[Classifier]:
    try:
        from .cnn import CNN
    except ImportError as error:
        raise ToolkitError(
            f"the cnn needs torch, which cannot be imported here ({error}): install torch, "
            "or set probe.classifier to logistic, ridge, svm, knn or mlp"
        ) from None
    return CNN
