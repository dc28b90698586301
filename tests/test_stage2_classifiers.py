"""Every classifier keeps one contract; the linear ones equal scikit-learn's pipelines on the full features."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from stage2_probe import linear
from stage2_probe.classifiers import NAMES, Classifier, create
from stage2_probe.features import Spec
from stage2_probe.panel import Panel
from stage2_probe.rowspace import RowSpace
from stage2_probe.saved import Saved, load, save
from stage2_probe.selection import Choice, choose, folds
from toolkit_datasets.codes import Level
from toolkit_datasets.errors import ToolkitError

SHAPE = (3, 4, 4)
WIDTH = 48


def blobs(n: int, *, n_classes: int, seed: int, width: int = WIDTH, gap: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian classes whose centres are the same for every seed; scales and offsets differ widely by feature."""
    centres = np.random.default_rng(99).normal(size=(n_classes, width)) * gap / np.sqrt(8)
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = (centres[y] + rng.normal(size=(n, width))) * np.geomspace(0.01, 100, width) + 3
    return x.astype(np.float32), y


def made(name: str, n_classes: int) -> Classifier:
    return create(name, n_classes=n_classes, shape=SHAPE if name == "cnn" else None)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
class TestContract:
    def test_learns_and_keeps_its_word(self, name: str, n_classes: int, tmp_path: Path) -> None:
        x, y = blobs(60, n_classes=n_classes, seed=0)
        x[:, 7] = 5.0  # constant on the draw, not on the test set
        other, truth = blobs(300, n_classes=n_classes, seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted = made(name, n_classes).fit(x, y, seed=3)
        shares = fitted.probabilities(other)
        assert shares.shape == (300, n_classes)
        assert shares.dtype == np.float64
        assert ((shares >= 0) & (shares <= 1)).all()
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-12)
        # The classes are far apart (a nearest-centre rule reaches about 0.97). The CNN averages over the grid, where
        # these classes hardly differ, so it has a test of its own below.
        assert (shares.argmax(axis=1) == truth).mean() > (0.3 if name == "cnn" else 0.8)
        assert len(fitted.chosen) == 1

        again = made(name, n_classes).fit(x, y, seed=3)
        np.testing.assert_array_equal(shares, again.probabilities(other))

        arrays, info = fitted.state()
        assert all(isinstance(value, np.ndarray) for value in arrays.values())
        json.dumps(info, allow_nan=False)
        levels = (Level("codes", 1, 8, *SHAPE),)
        classes = tuple("abc"[:n_classes])
        save(tmp_path, Saved(fitted, classes, Spec("vectors", 1, ("codes",)), "hash", "vectors", levels), seed=3)
        loaded = load(tmp_path)
        np.testing.assert_array_equal(shares, loaded.classifier.probabilities(other))
        assert loaded.classifier.chosen == fitted.chosen
        assert (loaded.classes, loaded.levels, loaded.content) == (classes, levels, "codes")

    def test_tiny_draws_work(self, name: str, n_classes: int) -> None:
        x, y = blobs(n_classes, n_classes=n_classes, seed=0)  # one sample of each class: nothing to cross-validate
        shares = made(name, n_classes).fit(x, y).probabilities(x)
        assert np.isfinite(shares).all()

    def test_constant_features_only(self, name: str, n_classes: int) -> None:
        y = np.arange(12) % n_classes
        other, _ = blobs(5, n_classes=2, seed=0)
        shares = made(name, n_classes).fit(np.full((12, WIDTH), 2.0, np.float32), y).probabilities(other)
        assert np.isfinite(shares).all()
        np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_numbers_too_small_for_a_weight_are_left_out() -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32), np.arange(40) % 2
    x[:, 3:] *= np.float32(1e-41)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(create("logistic", n_classes=2).fit(x, y).probabilities(x)).all()
    assert (RowSpace(x).scale[3:] == 0).all()


def standardised(classifier: object, width: int) -> object:
    return make_pipeline(StandardScaler(), FunctionTransformer(lambda x: x / np.sqrt(width)), classifier)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n", [40, 300])  # fewer and more rows than features
@pytest.mark.parametrize("C", [0.1, 10.0, 1000.0])
def test_rotated_logistic_equals_sklearn_on_all_features(n_classes: int, n: int, C: float) -> None:
    x, y = blobs(n, n_classes=n_classes, seed=0, width=200)
    other, _ = blobs(100, n_classes=n_classes, seed=1, width=200)
    space = RowSpace(x)
    assert space.coordinates.shape[1] == (n - 1 if n < 200 else 200)
    weight, bias = space.fold(*linear.logistic(space.coordinates, y, n_classes=n_classes, C=C))
    pipeline = standardised(LogisticRegression(C=C, tol=1e-8, max_iter=20_000), 200)
    expected = pipeline.fit(x.astype(np.float64), y).decision_function(other.astype(np.float64))
    got = other @ weight + bias
    got = got[:, 0] if n_classes == 2 else got - got.mean(axis=1, keepdims=True)
    expected = expected if n_classes == 2 else expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(got, expected, atol=2e-3, rtol=1e-3)
    np.testing.assert_array_equal(got > 0, expected > 0)


@pytest.mark.parametrize("gap", [0.0, 1.5, 30.0])  # nothing to learn, some, and classes far apart
@pytest.mark.parametrize("C", [0.01, 10.0, 1000.0])
def test_newton_and_lbfgs_find_the_same_weights(gap: float, C: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(60, n_classes=2, seed=0, gap=gap)
    z = RowSpace(x).coordinates
    newton = linear._newton(z, np.where(y == 1, 1.0, -1.0), C)
    assert newton is not None
    monkeypatch.setattr(linear, "NEWTON", 0)
    weight, bias = linear.logistic(z, y, n_classes=2, C=C)
    np.testing.assert_allclose(z @ newton[0] + newton[1], z @ weight + bias, atol=2e-3, rtol=1e-3)


def test_newton_leaves_what_it_cannot_solve_to_lbfgs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(40, n_classes=2, seed=0)
    z = RowSpace(x).coordinates
    expected = linear.logistic(z, y, n_classes=2, C=1.0)

    def singular(*_: object) -> None:
        raise np.linalg.LinAlgError

    monkeypatch.setattr(np.linalg, "solve", singular)
    for got, wanted in zip(linear.logistic(z, y, n_classes=2, C=1.0), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_a_panel_answers_what_its_learners_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stage2_probe.panel.COLUMNS", 40)  # several products: neighbours take 30 columns, the MLP 32
    x, y = blobs(30, n_classes=2, seed=0)
    other, _ = blobs(50, n_classes=2, seed=1)
    names = ["logistic", "knn", "ridge", "cnn", "svm", "mlp", "logistic", "knn"]
    learners = [made(name, 2).fit(x[i:], y[i:], seed=i) for i, name in enumerate(names)]
    together = list(Panel(learners).answers(other))
    assert len(together) == len(learners)
    for learner, answers in zip(learners, together, strict=True):
        np.testing.assert_allclose(answers, learner.answers(other), atol=1e-4)  # float32, and a steep one


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n", [40, 300])
def test_rotated_ridge_equals_sklearn_on_all_features(n_classes: int, n: int) -> None:
    x, y = blobs(n, n_classes=n_classes, seed=0, width=200)
    space = RowSpace(x)
    weight, bias = space.fold(*linear.ridge(space.coordinates, y, n_classes=n_classes, C=5.0))
    expected = standardised(RidgeClassifier(alpha=1 / 10), 200).fit(x.astype(np.float64), y).decision_function(x)
    np.testing.assert_allclose((x @ weight + bias).reshape(expected.shape), expected, atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_rotated_svm_equals_liblinear_on_all_features(n_classes: int) -> None:
    x, y = blobs(40, n_classes=n_classes, seed=0, width=200)
    space = RowSpace(x)
    weight, bias = space.fold(*linear.svm(space.coordinates, y, n_classes=n_classes, C=10.0))
    # liblinear penalises the intercept; a large intercept_scaling takes that back.
    peer = LinearSVC(C=10.0, dual=False, tol=1e-8, intercept_scaling=1000, max_iter=100_000)
    expected = standardised(peer, 200).fit(x.astype(np.float64), y).decision_function(x)
    np.testing.assert_allclose((x @ weight + bias).reshape(expected.shape), expected, atol=2e-3)


def test_neighbours_equal_sklearn() -> None:
    x, y = blobs(50, n_classes=2, seed=0, gap=0.5)
    other, _ = blobs(200, n_classes=2, seed=1, gap=0.5)
    fitted = create("knn", n_classes=2).fit(x, y)
    k = int(fitted.chosen["k"])
    scaler = StandardScaler().fit(x.astype(np.float64))
    peer = KNeighborsClassifier(k).fit(scaler.transform(x), y)
    nearest = y[peer.kneighbors(scaler.transform(other), return_distance=False)]  # (200, k), nearest first
    weights = np.arange(k, 0, -1)
    np.testing.assert_allclose(fitted.probabilities(other)[:, 1], (nearest * weights).sum(1) / weights.sum())


def test_neighbour_votes_by_hand() -> None:
    knn = create("knn", n_classes=2)
    shares = knn._answers(np.array([[0.1, 0.9, 0.5]]), {"labels": np.array([0, 1, 0]), "k": np.array(3)})  # type: ignore[attr-defined]
    np.testing.assert_allclose(shares, [[2 / 6 + 1 / 6, 3 / 6]])


def test_cnn_sees_patterns_on_the_grid() -> None:
    """Classes differ only by how two channels lie to each other in space: no per-channel histogram can tell them."""
    rng = np.random.default_rng(0)
    x = np.zeros((240, 2, 6, 6), np.float32)
    y = np.arange(240) % 2
    for i in range(240):
        row, column = rng.integers(0, 5, 2)
        x[i, 0, row, column] = 1
        x[i, 1, row + (y[i] == 0), column + (y[i] == 1)] = 1  # below, or to the right
    flat = x.reshape(240, -1)
    fitted = create("cnn", n_classes=2, shape=(2, 6, 6)).fit(flat[:160], y[:160], seed=0)
    assert (fitted.probabilities(flat[160:]).argmax(1) == y[160:]).mean() > 0.9


def test_saved_pair_that_does_not_match_is_refused(tmp_path: Path) -> None:
    x, y = blobs(20, n_classes=2, seed=0)
    levels = (Level("codes", 1, 8, *SHAPE),)
    saved = Saved(
        create("ridge", n_classes=2).fit(x, y), ("a", "b"), Spec("vectors", 1, ("codes",)), "hash", "vectors", levels
    )
    save(tmp_path, saved)
    np.savez(tmp_path / "classifier.npz", weight=np.zeros(3))
    with pytest.raises(ToolkitError, match=r"does not belong to classifier\.json"):
        load(tmp_path)
    (tmp_path / "classifier.npz").unlink()
    with pytest.raises(ToolkitError, match="no saved classifier"):
        load(tmp_path)


def test_unknown_and_impossible_classifiers_are_refused() -> None:
    with pytest.raises(ToolkitError, match=r"no classifier called 'forest'.*logistic, ridge"):
        create("forest", n_classes=2)
    with pytest.raises(ToolkitError, match="the cnn needs a code grid"):
        create("cnn", n_classes=2)


def test_folds_are_stratified_and_keep_units_whole() -> None:
    y = np.repeat([0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1], 3)
    units = np.repeat(np.arange(12), 3)
    parts = folds(y, units, np.random.default_rng(0))
    assert len(parts) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in parts])), np.arange(36))
    for training, held in parts:
        assert not set(units[training]) & set(units[held])
        assert set(y[training]) == {0, 1}
    assert [part[1].tolist() for part in parts] != [p[1].tolist() for p in folds(y, units, np.random.default_rng(1))]


@pytest.mark.parametrize("probabilities", [True, False])
def test_choose_takes_the_best_then_the_stronger(probabilities: bool) -> None:
    y = np.arange(20) % 2

    def shares(value: float) -> np.ndarray:
        right = {1.0: 0.9, 2.0: 0.6, 3.0: 0.4, 4.0: 0.9}[value]  # probability of the truth
        return np.stack([np.where(y == 0, right, 1 - right), np.where(y == 1, right, 1 - right)], axis=1)

    def choice(*values: float) -> Choice[float]:
        return choose(
            values, lambda rows, v: lambda held: shares(v)[held], y, np.arange(20), probabilities=probabilities, seed=0
        )

    def chosen(*values: float) -> float:
        return choice(*values).value

    assert chosen(2.0, 3.0) == 2.0  # accuracy
    assert choice(2.0, 3.0).loss == pytest.approx(-np.log(0.6))
    assert chosen(2.0, 1.0) == 1.0  # equal accuracy: log loss
    assert chosen(4.0, 1.0) == 4.0  # equal in both: the first, which is the strongest
    assert (
        choose(
            (5, 6, 7), lambda rows, v: lambda held: shares(1.0), y[:2], np.arange(2), probabilities=True, seed=0
        ).value
        == 6
    )


def test_a_lucky_guess_more_does_not_outweigh_how_wrong_the_others_are() -> None:
    y = np.zeros(20, int)
    y[10:] = 1
    truth = {"sure": np.array([0.99] * 17 + [0.01] * 3), "modest": np.array([0.8] * 16 + [0.45] * 4)}

    def fit(rows: np.ndarray, value: str) -> object:
        shares = np.stack([truth[value], 1 - truth[value]], axis=1)
        shares[y == 1] = shares[y == 1, ::-1]
        return lambda held: shares[held]

    def chosen(probabilities: bool) -> str:
        words = {"probabilities": probabilities, "seed": 0}
        return choose(("modest", "sure"), fit, y, np.arange(20), **words).value  # type: ignore[arg-type]

    assert chosen(probabilities=False) == "sure", "17 right against 16"
    assert chosen(probabilities=True) == "modest", "0.34 nats a sample against 0.70"


def test_fold_is_exact_for_wide_data_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(10, n_classes=2, seed=0)
    whole = RowSpace(x)
    monkeypatch.setattr("stage2_probe.rowspace.COLUMNS", 7)
    parts = RowSpace(x)
    weight = np.random.default_rng(0).normal(size=(9, 3))
    for space in (whole, parts):
        folded, bias = space.fold(weight, np.ones(3))
        np.testing.assert_allclose(x @ folded + bias, space.coordinates @ weight + 1, atol=1e-4)
    np.testing.assert_allclose(np.abs(whole.coordinates), np.abs(parts.coordinates), atol=1e-9)
    # Distances are those of the standardised features.
    z = StandardScaler().fit_transform(x.astype(np.float64)) / np.sqrt(WIDTH)
    np.testing.assert_allclose(whole.coordinates @ whole.coordinates.T, z @ z.T, atol=1e-9)
