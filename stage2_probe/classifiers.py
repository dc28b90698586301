"""The classifiers, behind one small interface: `fit`, `probabilities`, `state` and `from_state`.

All but the CNN begin with an affine map of the features: decision values (logistic, ridge, svm), similarities to the
training samples (knn), or hidden units (mlp). So each is fitted in the draw's row space (see rowspace.py), the map is
folded back onto the raw features, and scoring a test sample costs one matrix product.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Self

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from toolkit_datasets.errors import ToolkitError

from . import linear
from .rowspace import RowSpace
from .selection import choose

NAMES = ("logistic", "ridge", "svm", "knn", "mlp", "cnn")

Arrays = dict[str, np.ndarray]


class Classifier(ABC):
    """A classifier of F features into C classes, numbered 0 to C - 1.

    Attributes:
        name: what cards call it.
        meaning: what the columns of `probabilities` are, in one sentence.
        n_classes: C.
        chosen: the setting that cross-validation inside the draw chose, such as `{"C": 1.0}`; empty before `fit`.
    """

    name: ClassVar[str]
    meaning: ClassVar[str]
    n_classes: int
    chosen: dict[str, float]

    @abstractmethod
    def fit(self, x: np.ndarray, y: np.ndarray, *, units: np.ndarray | None = None, seed: int = 0) -> Self:
        """Standardise, choose the setting by cross-validation, and fit on all of `x`.

        Args:
            x: (n, F) float32, raw features of one draw.
            y: (n,) integer classes.
            units: (n,) what cross-validation must keep together (subjects); each row by itself by default.
            seed: of the folds and of random starts.
        """

    @abstractmethod
    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Raw features (m, F) -> (m, C) float64 in [0, 1] that sum to one; the largest is the prediction."""

    @abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """All that `from_state` needs: arrays, and a dictionary fit for JSON."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        """The inverse of `state`: a classifier whose probabilities are the same to the last bit."""


class Affine(Classifier):
    """What the classifiers that begin with an affine map share.

    A kind of classifier says which `values` of its `setting` are tried (from the strongest regularisation to the
    weakest), how to find the map and what else it needs in the row space (`_solve`), and how the map's outputs
    become probabilities (`_shares`).
    """

    setting: ClassVar[str]
    values: ClassVar[tuple[float, ...]]

    def __init__(self, *, n_classes: int) -> None:
        self.n_classes = n_classes
        self.chosen = {}
        self._arrays: Arrays = {}

    def fit(self, x: np.ndarray, y: np.ndarray, *, units: np.ndarray | None = None, seed: int = 0) -> Self:
        """See `Classifier.fit`. The scaler is fitted once on the draw, without labels; folds share it."""
        with one_thread():
            self._fit(RowSpace(x), y, np.arange(len(y)) if units is None else units, seed)
        return self

    def _fit(self, space: RowSpace, y: np.ndarray, units: np.ndarray, seed: int) -> None:
        z = space.coordinates

        def fit_rows(rows: np.ndarray, value: float) -> Any:
            parts = self._solve(z[rows], y[rows], value, seed)
            return lambda held_out: self._shares(z[held_out] @ parts["weight"] + parts["bias"], parts)

        value = choose(self._candidates(y), fit_rows, y, units, seed=seed)
        self._arrays = self._solve(z, y, value, seed)
        self._arrays["weight"], self._arrays["bias"] = space.fold(self._arrays["weight"], self._arrays["bias"])
        self.chosen = {self.setting: value}

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """See `Classifier.probabilities`."""
        return self._shares(
            x.astype(np.float32, copy=False) @ self._arrays["weight"] + self._arrays["bias"], self._arrays
        )

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """See `Classifier.state`."""
        return dict(self._arrays), {"classifier": self.name, "n_classes": self.n_classes, "chosen": self.chosen}

    @classmethod
    def from_state(cls, arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> Self:
        """See `Classifier.from_state`."""
        classifier = cls(n_classes=int(info["n_classes"]))
        classifier.chosen = dict(info["chosen"])
        classifier._arrays = dict(arrays)
        return classifier

    def _candidates(self, y: np.ndarray) -> tuple[float, ...]:
        return self.values

    @abstractmethod
    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        """Coordinates (n, r) float64 -> at least `weight` (r, H) and `bias` (H,)."""

    @abstractmethod
    def _shares(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        """Outputs of the affine map (m, H) -> probabilities (m, C)."""


class Logistic(Affine):
    """Logistic regression with an L2 penalty; softmax regression for more than two classes."""

    name = "logistic"
    meaning = "probabilities of the logistic model"
    setting = "C"
    # For rows of unit length: from the nearest class mean to hardly any penalty.
    values: ClassVar[tuple[float, ...]] = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.logistic(z, y, n_classes=self.n_classes, C=value)
        return {"weight": weight, "bias": bias}

    def _shares(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        return linear.softmax(outputs)


class Ridge(Logistic):
    """Least squares on targets of -1 and 1 with an L2 penalty."""

    name = "ridge"
    meaning = "softmax of the decision values: they rank, but they are not calibrated probabilities"

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.ridge(z, y, n_classes=self.n_classes, C=value)
        return {"weight": weight, "bias": bias}


class SVM(Logistic):
    """Linear support vector machine with the squared hinge loss, one class against the rest."""

    name = "svm"
    meaning = Ridge.meaning
    values = (0.01, 0.1, 1.0, 10.0, 100.0)

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        weight, bias = linear.svm(z, y, n_classes=self.n_classes, C=value)
        return {"weight": weight, "bias": bias}


class Neighbours(Affine):
    """k nearest training samples by Euclidean distance of the standardised features.

    Votes fall linearly with rank, from k for the nearest to 1 (after Dudani 1976): that also breaks ties.
    """

    name = "knn"
    meaning = "rank-weighted share of the k nearest training samples"
    setting = "k"
    values = (45, 25, 15, 9, 5, 3, 1)

    def _candidates(self, y: np.ndarray) -> tuple[float, ...]:
        # A fold trains on at least half of the draw.
        return tuple(k for k in self.values if k <= max(1, len(y) // 2))

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        # |x - z|^2 = |x|^2 - 2 (x.z - |z|^2 / 2): the largest x.z - |z|^2 / 2 is the nearest. What x has outside the
        # row space adds the same to every distance.
        return {"weight": z.T, "bias": -(z**2).sum(axis=1) / 2, "labels": y.astype(np.int64), "k": np.array(int(value))}

    def _shares(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        k = min(int(arrays["k"]), outputs.shape[1])
        nearest = np.argpartition(-outputs, k - 1, axis=1)[:, :k]
        rank = np.argsort(-np.take_along_axis(outputs, nearest, axis=1), axis=1, kind="stable")
        labels = arrays["labels"][np.take_along_axis(nearest, rank, axis=1)]  # (m, k), nearest first
        votes = np.zeros((len(outputs), self.n_classes))
        for place in range(k):
            votes[np.arange(len(outputs)), labels[:, place]] += k - place
        shares: np.ndarray = votes / votes.sum(axis=1, keepdims=True)
        return shares


class MLP(Affine):
    """One hidden layer of 32 rectified units, fitted by L-BFGS for at most 100 steps; the L2 penalty is chosen."""

    name = "mlp"
    meaning = "probabilities of the network"
    setting = "alpha"
    values = (10.0, 1.0, 0.1)
    hidden: ClassVar[int] = 32
    steps: ClassVar[int] = 100  # reaching them is no failure: stopping early is part of the regularisation

    def _solve(self, z: np.ndarray, y: np.ndarray, value: float, seed: int) -> Arrays:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        # Rows have unit length; a network starts best from coordinates of unit size.
        size = 1 / max(float(np.sqrt((z**2).mean())), 1e-12)
        network = MLPClassifier((self.hidden,), solver="lbfgs", alpha=value, max_iter=self.steps, random_state=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(z * size, y)
        (first, second), (bias, bias2) = network.coefs_, network.intercepts_
        return {"weight": first * size, "bias": bias, "weight2": second, "bias2": bias2}

    def _shares(self, outputs: np.ndarray, arrays: Arrays) -> np.ndarray:
        return linear.softmax(np.maximum(outputs, 0) @ arrays["weight2"] + arrays["bias2"])


def one_thread() -> AbstractContextManager[object]:
    """One BLAS thread for the block.

    The matrices of a draw are small: a second thread gains little, and loses a factor of ten and more where the cores
    are shared. One thread also makes results independent of the number of cores.
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


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


def _kind(name: str) -> type[Affine]:
    kinds: dict[str, type[Affine]] = {kind.name: kind for kind in (Logistic, Ridge, SVM, Neighbours, MLP)}
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
