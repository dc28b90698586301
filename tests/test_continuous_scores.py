"""Regressors, their selection, metrics and intervals against scikit-learn and plain loops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as peer
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from stage2_probe import linear, metrics, regressors
from stage2_probe.features import Spec
from stage2_probe.intervals import Bootstrap, interval
from stage2_probe.regressors import NAMES, create, name_for
from stage2_probe.rowspace import RowSpace
from stage2_probe.saved import Saved, load, save
from stage2_probe.selection import choose_by_error, folds_by_target
from toolkit_datasets.codes import Level
from toolkit_datasets.errors import ToolkitError

WIDTH = 60


def line(n: int, *, seed: int, width: int = WIDTH, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """A linear target with an offset, on features of widely different scales."""
    weights = np.random.default_rng(99).normal(size=width) / np.sqrt(width)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width))
    y = 1990 + 3 * (x @ weights + noise * rng.normal(size=n))
    return (x * np.geomspace(0.01, 100, width) + 3).astype(np.float32), y


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_learns_and_keeps_its_word(self, name: str, tmp_path: Path) -> None:
        x, y = line(150, seed=0, width=8)
        x[:, 7] = 5.0  # constant on the draw
        other, truth = line(300, seed=1, width=8)
        fitted = create(name).fit(x, y, seed=3)
        predicted = fitted.predict(other)
        assert predicted.shape == (300,)
        assert predicted.dtype == np.float64
        assert peer.r2_score(truth, predicted) > 0.35
        np.testing.assert_array_equal(predicted, create(name).fit(x, y, seed=3).predict(other))
        arrays, info = fitted.state()
        json.dumps(info, allow_nan=False)
        levels = (Level("codes", 1, 8, 2, 2, 2),)
        save(tmp_path, Saved(fitted, (), Spec("vectors", 1, ("codes",)), "hash", "vectors", levels), seed=3)
        loaded = load(tmp_path)
        assert loaded.kind == "continuous"
        assert isinstance(loaded.classifier, regressors.Regressor)
        np.testing.assert_array_equal(predicted, loaded.classifier.predict(other))
        assert loaded.classifier.chosen == fitted.chosen
        assert arrays

    def test_follows_the_unit_of_the_targets(self, name: str) -> None:
        """Days instead of years: the same predictions in another unit."""
        x, y = line(60, seed=0, width=8)
        years, days = create(name).fit(x, y, seed=0), create(name).fit(x, 365.25 * (y - 1900), seed=0)
        np.testing.assert_allclose(days.predict(x) / 365.25 + 1900, years.predict(x), rtol=1e-4)
        assert years.chosen == days.chosen

    def test_tiny_draws_and_constant_features(self, name: str) -> None:
        x, _ = line(2, seed=0)
        assert np.isfinite(create(name).fit(x, np.array([1.0, 2.0])).predict(x)).all()
        y = np.arange(12.0)
        flat = create(name).fit(np.full((12, 5), 2.0, np.float32), y).predict(np.full((3, 5), 2.0, np.float32))
        assert ((flat >= 0) & (flat <= 11)).all()


@pytest.mark.parametrize("n", [40, 300])  # fewer and more rows than features
@pytest.mark.parametrize("alpha", [0.01, 1.0, 100.0])
def test_rotated_ridge_equals_sklearn_on_all_features(n: int, alpha: float) -> None:
    x, y = line(n, seed=0, width=200)
    other, _ = line(50, seed=1, width=200)
    space = RowSpace(x)
    weight, bias = space.fold(*linear.least_squares(space.coordinates, y[:, None], alpha=alpha))
    scaler = StandardScaler().fit(x.astype(np.float64))
    ridge = Ridge(alpha=alpha * 200).fit(scaler.transform(x), y)
    np.testing.assert_allclose((other @ weight + bias)[:, 0], ridge.predict(scaler.transform(other)), atol=2e-3)


def test_alpha_is_the_one_that_ridgecv_takes_on_the_same_folds() -> None:
    x, y = line(80, seed=0)
    fitted = create("ridge").fit(x, y, seed=5)
    parts = folds_by_target(y, np.arange(80), np.random.default_rng(5))
    scaled = StandardScaler().fit_transform(x.astype(np.float64)) / np.sqrt(WIDTH)
    ridge = RidgeCV(alphas=regressors.Ridge.values, cv=parts, scoring="neg_mean_squared_error").fit(scaled, y)
    assert fitted.chosen == {"alpha": ridge.alpha_}
    np.testing.assert_allclose(fitted.predict(x), ridge.predict(scaled), atol=1e-3)


def test_noise_is_shrunk_to_the_mean() -> None:
    x, _ = line(100, seed=0)
    y = np.random.default_rng(5).normal(50, 10, 100)
    spread = [
        create("ridge").fit(x, np.random.default_rng(s).permutation(y), seed=s).predict(x).std() for s in range(9)
    ]
    assert np.median(spread) < 0.5 * y.std()


def test_neighbours_equal_a_weighted_mean_of_sklearns() -> None:
    x, y = line(50, seed=0, width=6)
    other, _ = line(100, seed=1, width=6)
    fitted = create("knn").fit(x, y)
    k = int(fitted.chosen["k"])
    scaler = StandardScaler().fit(x.astype(np.float64))
    near = KNeighborsRegressor(k).fit(scaler.transform(x), y).kneighbors(scaler.transform(other), return_distance=False)
    weights = np.arange(k, 0, -1)
    np.testing.assert_allclose(fitted.predict(other), (y[near] * weights).sum(axis=1) / weights.sum())


def test_names_resolve_and_what_knows_classes_only_is_refused() -> None:
    assert [name_for(name) for name in ("logistic", "ridge", "knn", "mlp")] == ["ridge", "ridge", "knn", "mlp"]
    with pytest.raises(ToolkitError, match=r"'svm' predicts classes.*ridge, knn, mlp"):
        name_for("svm")


def test_folds_keep_units_whole_and_spread_over_the_targets() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(23), 3)
    y = np.repeat(rng.permutation(23).astype(float), 3)
    parts = folds_by_target(y, units, np.random.default_rng(1))
    assert len(parts) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in parts])), np.arange(69))
    for training, held in parts:
        assert not set(units[training]) & set(units[held])
        assert set(np.unique(y[held]) // 5) >= {0, 1, 2, 3}  # one of every block of five


def test_choose_takes_the_least_squared_error_then_the_stronger() -> None:
    y = np.arange(20.0)

    def chosen(*values: float) -> float:
        return choose_by_error(values, lambda rows, v: lambda held: (y[held] + abs(v))[:, None], y, y, seed=0).value

    assert chosen(3.0, 1.0, 2.0) == 1.0
    assert chosen(-1.0, 1.0) == -1.0
    assert choose_by_error((5, 6, 7), lambda rows, v: lambda held: y[:, None], y[:3], np.zeros(3), seed=0).value == 6


class TestMetrics:
    def test_equal_to_sklearn(self) -> None:
        rng = np.random.default_rng(0)
        target = rng.normal(1990, 12, 300)
        predicted = target + rng.normal(1, 5, 300)
        assert metrics.mae(target, predicted) == pytest.approx(peer.mean_absolute_error(target, predicted))
        assert metrics.rmse(target, predicted) ** 2 == pytest.approx(peer.mean_squared_error(target, predicted))
        assert metrics.r2(target, predicted) == pytest.approx(peer.r2_score(target, predicted))
        assert metrics.pearson(target, predicted) == pytest.approx(np.corrcoef(target, predicted)[0, 1])

    def test_golden_values_and_undefined_ones(self) -> None:
        target = np.array([1.0, 2.0, 3.0])
        assert metrics.mae(target, np.array([1.0, 2.0, 6.0])) == 1.0
        assert metrics.r2(target, np.full(3, 2.0)) == 0.0
        assert metrics.r2(target, np.full(3, 3.0)) == -1.5
        assert metrics.r2(np.ones(3), target) is None
        assert metrics.pearson(target, np.ones(3)) is None


class TestIntervals:
    def test_resamples_equal_a_plain_loop(self) -> None:
        rng = np.random.default_rng(0)
        groups = np.array([3, 3, 1, 1, 1, 7, 2, 2])
        target = rng.normal(1990, 5, 8)
        predicted = target + rng.normal(size=(3, 8))
        bootstrap = Bootstrap(groups, seed=5, resamples=20)
        errors, ratios = bootstrap.means(np.abs(predicted - target)), bootstrap.r2(predicted, target)
        replay = np.random.default_rng([5, 0])
        members = [np.flatnonzero(groups == name) for name in np.unique(groups)]
        for b, picked in enumerate(replay.integers(0, 4, size=(20, 4))):
            rows = np.concatenate([members[group] for group in picked])
            for m in range(3):
                assert errors[b, m] == pytest.approx(peer.mean_absolute_error(target[rows], predicted[m, rows]))
                if len(set(target[rows])) > 1:
                    assert ratios[b, m] == pytest.approx(peer.r2_score(target[rows], predicted[m, rows]))
                else:
                    assert np.isnan(ratios[b, m])

    def test_covers_the_truth_about_as_often_as_it_says(self) -> None:
        """Simulated probes: each draw has a bias of its own, each test subject an error of its own."""
        rng = np.random.default_rng(0)
        size = 3

        def simulated(groups: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
            target = np.repeat(rng.normal(0, 10, groups), size)
            own = rng.normal(0, 4, (1, groups, 1)) + rng.normal(0, 3, (draws, groups, size))
            bias = rng.normal(0, 2, (draws, 1, 1))
            return target, target + (own + bias).reshape(draws, -1)

        target, predicted = simulated(4000, 400)
        true_r2 = np.mean([metrics.r2(target, row) or 0 for row in predicted])
        true_mae = np.abs(predicted - target).mean()
        covered = {"mae": 0, "r2": 0}
        for _ in range(200):
            target, predicted = simulated(80, 20)
            bootstrap = Bootstrap(np.repeat(np.arange(80), size), seed=1, resamples=300)
            low, high = interval(bootstrap.over_draws(bootstrap.means(np.abs(predicted - target))), 80)
            covered["mae"] += low <= true_mae <= high
            low, high = interval(bootstrap.over_draws(bootstrap.r2(predicted, target)), 80)
            covered["r2"] += low <= true_r2 <= high
        assert all(0.89 <= count / 200 <= 0.99 for count in covered.values()), covered
