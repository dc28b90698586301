"""The probe of continuous targets on small stores: draws, honesty, files, saved regressors, and every refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import mean_absolute_error, r2_score
from tiny_store import relabelled, sample_table, splits_of, store_of

from stage2_probe.draws import draw, plan
from stage2_probe.predict import predict
from stage2_probe.probe import probe
from stage2_probe.task import ContinuousTask, task_of
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes, open_codes
from toolkit_datasets.errors import ToolkitError

QUICK = Probe(labels=30, draws=4, curve=(10, 30), features="histogram")


def samples(n: int, *, slices: int = 1) -> pd.DataFrame:
    """n images, `slices` to a subject of one age each; 1 : 2 : 4 unlabelled, labelled, test."""
    subject = np.arange(n) // slices
    age = np.random.default_rng(0).uniform(20, 90, n)[subject]
    return sample_table(
        [f"scan/{i}" for i in range(n)],
        label=[f"{value:.2f}" for value in age],
        group=[f"g{s}" for s in subject],
        split=splits_of(subject),
    )


def store(path: Path, table: pd.DataFrame, **options: str) -> Codes:
    """A store in which the share of the upper half of the codebook grows with the age."""
    rng = np.random.default_rng(0)
    share = (table["label"].astype(float).to_numpy() - 20) / 70
    upper = rng.random((len(table), 1, 4, 4)) < share[:, None, None, None]
    return store_of(path, table, rng.integers(0, 4, upper.shape) + 4 * upper, **options)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Codes:
    return store(tmp_path_factory.mktemp("store") / "codes.h5", samples(700))


@pytest.fixture(scope="module")
def images(codes: Codes) -> dict[str, np.ndarray]:
    """HOG that knows nothing, and features that are the target itself."""
    rng = np.random.default_rng(1)
    age = codes.manifest["label"].astype(float).to_numpy()
    return {
        "hog": rng.normal(size=(700, 10)).astype(np.float32),
        "random": (age[:, None] + rng.normal(size=(700, 6)) * 0.1).astype(np.float32),
    }


@pytest.fixture(scope="module")
def done(
    codes: Codes, images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("probe")
    return probe(codes, QUICK, seed=3, out=out, kind="continuous", images=images), out


class TestDraws:
    @pytest.mark.parametrize("n", [4, 10, 30, 37, 199])
    def test_balanced_over_quantiles_distinct_and_seeded(self, codes: Codes, n: int) -> None:
        task = task_of(codes.manifest, "continuous")
        bins = min(10, n)
        decile = np.argsort(np.argsort(task.pool_y)) * bins // task.n_pool
        extra = set()
        for number in range(10):
            chosen = draw(task, n, number, seed=1)
            assert len(set(chosen)) == n
            counts = np.bincount(decile[chosen], minlength=bins)
            assert counts.max() - counts.min() <= 1
            extra.add(tuple(counts))
            np.testing.assert_array_equal(chosen, draw(task, n, number, seed=1))
        assert (len(extra) > 1) == (n % bins > 0)
        assert not np.array_equal(draw(task, n, 0, seed=1), draw(task, n, 1, seed=1))

    def test_every_sample_is_as_likely_also_on_a_heap_of_one_value(self) -> None:
        table = samples(280)
        table.loc[table.index % 2 == 0, "label"] = "0"  # half of the pool has one value, over several bins
        task = task_of(table, "continuous")
        counts = np.bincount(np.concatenate([draw(task, 8, i, seed=0) for i in range(3000)]), minlength=80)
        assert np.abs(counts - 300).max() < 5 * np.sqrt(300 * 0.9)

    def test_groups_come_whole_and_balanced_by_their_mean(self) -> None:
        table = samples(7 * 30 * 4, slices=4)
        table.loc[::2, "label"] = [f"{float(x) + 1:.2f}" for x in table.loc[::2, "label"]]  # slices may differ a little
        task = task_of(table, "continuous")
        assert (task.grouped, task.unit, task.n_pool) == (True, "groups", 60)
        means = table.iloc[task.pool].assign(y=task.pool_y).groupby("group")["y"].mean()
        decile = (means.rank(method="first") - 1) // 6
        for number in range(5):
            drawn = table.iloc[task.pool[draw(task, 20, number, seed=0)]]
            assert (drawn.groupby("group").size() == 4).all()
            assert np.bincount(decile[drawn["group"].unique()].astype(int), minlength=10).tolist() == [2] * 10

    def test_the_whole_pool_is_one_draw_and_impossible_sizes_are_dropped(self, codes: Codes) -> None:
        task = task_of(codes.manifest, "continuous")
        planned = plan(task, labels=20, draws=8, curve=(1, 2, 120, 200, 1000), seed=0)
        assert {size: len(of_size) for size, of_size in planned.items()} == {2: 8, 20: 8, 120: 5, 200: 1}


class TestResults:
    def test_says_what_was_asked_and_how_good_it_was(self, done: tuple[dict[str, Any], Path]) -> None:
        about = done[0]["probe"]
        assert (about["kind"], about["classifier"]) == ("continuous", "ridge"), (
            "logistic stands for ridge, and it is said"
        )
        assert (about["n_labelled"], about["n_pool"], about["n_test"], about["draws"]) == (30, 200, 400, 4)
        assert "accuracy" not in about
        assert about["r2"]["mean"] > 0.5
        assert about["pearson"]["mean"] > 0.7
        assert about["mae"]["mean"] < about["rmse"]["mean"] < about["target"]["test"]["sd"]
        for measure in ("mae", "r2"):
            low, high = about[measure]["ci95"]
            assert low < about[measure]["mean"] < high
            assert np.mean([row[measure] for row in about["per_draw"]]) == pytest.approx(about[measure]["mean"])
            assert about["saved_classifier"][measure] == about["per_draw"][0][measure]

    def test_baselines_are_paired_and_signs_are_codes_minus_baseline(self, done: tuple[dict[str, Any], Path]) -> None:
        found, about = done[0]["baselines"], done[0]["probe"]
        assert list(found) == ["mean", "hog", "random"]
        assert -0.1 < found["mean"]["r2"]["mean"] <= 0, "a constant is never better than the test set's own mean"
        assert found["hog"]["r2"]["mean"] < 0.05
        assert found["random"]["r2"]["mean"] > 0.99
        for entry in found.values():
            for measure in ("mae", "r2"):
                difference = entry["difference"][measure]
                assert difference["mean"] == pytest.approx(about[measure]["mean"] - entry[measure]["mean"])
                assert difference["ci95"][0] <= difference["mean"] <= difference["ci95"][1]
        assert found["hog"]["difference"]["mae"]["ci95"][1] < 0 < found["random"]["difference"]["mae"]["ci95"][0]
        assert found["random"]["difference"]["r2"]["ci95"][1] < 0 < found["hog"]["difference"]["r2"]["ci95"][0]

    def test_curve_reuses_the_main_draws(self, done: tuple[dict[str, Any], Path]) -> None:
        curve = done[0]["curve"]
        assert (curve["labels"], curve["draws"]) == ([10, 30], [4, 4])
        for measure in ("mae", "r2"):
            assert set(curve[measure]) == {"codes", "hog", "random", "mean"}
            assert curve[measure]["codes"][1] == done[0]["probe"][measure]
            assert curve[measure]["mean"][1] == done[0]["baselines"]["mean"][measure]
        assert curve["mae"]["codes"][1]["mean"] < curve["mae"]["codes"][0]["mean"]

    def test_files_hold_what_the_results_say(self, done: tuple[dict[str, Any], Path], codes: Codes) -> None:
        returned, out = done

        def no_nan(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        assert json.loads((out / "results.json").read_text(), parse_constant=no_nan) == returned
        table = pd.read_csv(out / "predictions.csv")
        assert list(table) == ["file", "id", "target", "prediction", "mean_absolute_error"]
        truth = codes.manifest.set_index("id")["label"].astype(float)
        np.testing.assert_allclose(table["target"], truth[table["id"]])
        first = returned["probe"]["per_draw"][0]
        assert mean_absolute_error(table["target"], table["prediction"]) == pytest.approx(first["mae"], rel=1e-6)
        assert r2_score(table["target"], table["prediction"]) == pytest.approx(first["r2"], rel=1e-6)
        assert table["mean_absolute_error"].mean() == pytest.approx(returned["probe"]["mae"]["mean"], rel=1e-6)
        draws = pd.read_csv(out / "draws.csv").merge(codes.manifest, on="id")
        assert set(draws["split"]) == {"labelled"}
        means = draws[draws["size"] == 30].assign(y=draws["label"].astype(float)).groupby("draw")["y"].mean()
        errors = [mean_absolute_error(table["target"], np.full(400, mean)) for mean in means]
        assert returned["baselines"]["mean"]["mae"]["mean"] == pytest.approx(np.mean(errors), rel=1e-6)

    def test_a_constant_test_set_has_an_mae_and_no_r2(self, codes: Codes, tmp_path: Path) -> None:
        found = probe(relabelled(codes, "test", np.full(400, "40")), QUICK, seed=3, out=tmp_path, kind="continuous")
        assert found["probe"]["r2"] == {"mean": None, "sd": None, "ci95": None}
        assert found["baselines"]["mean"]["difference"]["r2"] == {"mean": None, "ci95": None}
        assert found["probe"]["mae"]["ci95"][0] > 0


class TestHonesty:
    @pytest.mark.parametrize("split", ["labelled", "test"])
    def test_shuffled_targets_bring_nothing(self, codes: Codes, split: str, tmp_path: Path) -> None:
        labels = codes.manifest.loc[codes.manifest["split"] == split, "label"].to_numpy()
        settings = QUICK.model_copy(update={"curve": ()})
        found = []
        for seed in range(4):
            other = relabelled(codes, split, np.random.default_rng(seed).permutation(labels))
            found.append(probe(other, settings, seed=3, out=tmp_path, kind="continuous")["probe"]["r2"]["mean"])
        assert np.mean(found) < 0.02

    def test_nothing_that_is_fitted_sees_the_test_set(self, codes: Codes, tmp_path: Path) -> None:
        labels = codes.manifest.loc[codes.manifest["split"] == "test", "label"].to_numpy()
        first = probe(codes, QUICK, seed=3, out=tmp_path / "a", kind="continuous")
        other = relabelled(codes, "test", labels[::-1])
        second = probe(other, QUICK, seed=3, out=tmp_path / "b", kind="continuous")
        assert first["probe"]["mae"] != second["probe"]["mae"]
        assert [x["chosen"] for x in first["probe"]["per_draw"]] == [x["chosen"] for x in second["probe"]["per_draw"]]
        for name in ("classifier.npz", "draws.csv"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_subjects_stay_whole_in_the_interval_too(self, tmp_path: Path) -> None:
        codes = store(tmp_path / "c.h5", samples(700, slices=5))
        settings = Probe(labels=12, draws=3, curve=(), features="mean")
        found = probe(codes, settings, seed=0, out=tmp_path / "out", kind="continuous")["probe"]
        assert (found["unit"], found["n_pool"], found["n_test_groups"]) == ("groups", 40, 80)


class TestPredict:
    @pytest.mark.parametrize("name", ["logistic", "ridge", "knn", "mlp"])
    def test_round_trip_across_formats(self, name: str, codes: Codes, tmp_path: Path) -> None:
        settings = Probe(labels=30, draws=1, curve=(), features="histogram", classifier=name)  # type: ignore[arg-type]
        found = probe(codes, settings, seed=3, out=tmp_path / "probe", kind="continuous")["probe"]
        assert found["r2"]["mean"] > 0.3
        table = pd.read_csv(tmp_path / "probe" / "predictions.csv")
        copy = store(tmp_path / "npy", samples(700), content="vectors")
        rows = np.flatnonzero(codes.manifest["split"] == "test")
        for source in (codes, copy):
            again = predict(tmp_path / "probe", source, rows)
            assert list(again) == ["file", "id", "prediction"]
            np.testing.assert_allclose(again["prediction"], table["prediction"], rtol=1e-7)
        about = json.loads((tmp_path / "probe" / "classifier.json").read_text())
        assert about["kind"] == "continuous"
        assert about["test_mae"] == found["saved_classifier"]["mae"]


class TestRefusals:
    @pytest.mark.parametrize("name", ["svm", "cnn"])
    def test_classifiers_of_classes_only(self, name: str, codes: Codes, tmp_path: Path) -> None:
        settings = QUICK.model_copy(update={"classifier": name})
        with pytest.raises(ToolkitError, match=f"'{name}' predicts classes.*one of ridge, knn, mlp"):
            probe(codes, settings, seed=0, out=tmp_path / "out", kind="continuous")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("label", ["old", "nan", "inf", "23,5", "1_000"])
    def test_labels_that_are_no_numbers(self, label: str, codes: Codes, tmp_path: Path) -> None:
        other = relabelled(codes, "test", np.array(["50"] * 399 + [label]))
        with pytest.raises(
            ToolkitError, match=rf"scan/\d+ is '{label}', which is no finite number.*labels\.kind=class"
        ):
            probe(other, QUICK, seed=0, out=tmp_path, kind="continuous")

    def test_one_target_for_all_and_too_few_labels(self, codes: Codes) -> None:
        other = relabelled(relabelled(codes, "test", np.full(400, "7")), "labelled", np.full(200, "7.0"))
        other.manifest.loc[other.manifest["split"] == "test", "label"] = "7"
        with pytest.raises(ToolkitError, match="every labelled image has 7"):
            task_of(other.manifest, "continuous")
        task = task_of(codes.manifest, "continuous")
        assert isinstance(task, ContinuousTask)
        with pytest.raises(ToolkitError, match=r"probe\.labels = 201, but the labelled pool holds only 200 images"):
            plan(task, labels=201, draws=2, curve=(), seed=0)

    def test_integers_used_as_classes_are_classes_as_before(self, codes: Codes, tmp_path: Path) -> None:
        other = open_codes(codes.path)
        other.manifest = codes.manifest.copy()
        other.manifest["label"] = np.where(other.manifest["label"].astype(float) > 55, "1", "0")
        found = probe(other, QUICK, seed=0, out=tmp_path)["probe"]
        assert (found["kind"], found["classes"], found["classifier"]) == ("class", ["0", "1"], "logistic")
