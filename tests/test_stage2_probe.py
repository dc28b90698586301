"""The probe from end to end on small stores: honesty first, then files, then every way to be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny_store import relabelled, sample_table, splits_of, store_of

from stage2_probe.baselines import principal_axes
from stage2_probe.predict import predict
from stage2_probe.probe import probe
from stage2_probe.task import task_of
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes, manifest_of
from toolkit_datasets.errors import ToolkitError

QUICK = Probe(labels=20, draws=3, curve=(10, 20), features="histogram")


def samples(*, n: int, slices: int = 1) -> pd.DataFrame:
    """n images of two classes; `slices` of them make a subject. 1 : 2 : 4 unlabelled, labelled, test."""
    subject = np.arange(n) // slices
    return sample_table(
        [f"{'cat' if s % 2 else 'dog'}.{i}" for i, s in enumerate(subject)],
        label=np.where(subject % 2, "cat", "dog"),
        group=[f"g{s}" for s in subject],
        split=splits_of(subject // 2),
    )


def store(path: Path, table: pd.DataFrame, *, signal: float = 0.5, **options: str) -> Codes:
    """A store whose codes tell the class: with chance `signal` one is of the class's own half."""
    rng = np.random.default_rng(0)
    shape = (len(table), 1, 4, 4)
    own = rng.integers(0, 4, shape) + 4 * (table["label"] == "cat").to_numpy()[:, None, None, None]
    return store_of(path, table, np.where(rng.random(shape) < signal, own, rng.integers(0, 8, shape)), **options)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Codes:
    return store(tmp_path_factory.mktemp("store") / "codes.h5", samples(n=420))


@pytest.fixture(scope="module")
def images(codes: Codes) -> dict[str, np.ndarray]:
    """Pixels that know the class a little, HOG that knows nothing, and features that are the label itself."""
    rng = np.random.default_rng(1)
    is_cat = (codes.manifest["label"] == "cat").to_numpy()
    return {
        "pixels": np.clip(rng.normal(120 + 20 * is_cat[:, None], 40, (420, 48)), 0, 255).astype(np.uint8),
        "hog": rng.normal(size=(420, 10)).astype(np.float32),
        "random": (rng.normal(size=(420, 6)) * 0.01 + is_cat[:, None]).astype(np.float32),
    }


@pytest.fixture(scope="module")
def result(
    codes: Codes, images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    out = tmp_path_factory.mktemp("probe")
    return probe(codes, QUICK, seed=3, out=out, images=images), out


class TestResults:
    def test_says_what_was_asked(self, result: tuple[dict[str, Any], Path]) -> None:
        about = result[0]["probe"]
        assert (about["n_labelled"], about["n_pool"], about["n_test"], about["draws"]) == (20, 120, 240, 3)
        assert about["classes"] == ["cat", "dog"]
        assert (about["features"], about["classifier"], about["grouped"]) == ("histogram of codes", "logistic", False)
        assert about["accuracy"]["mean"] > 0.85
        low, high = about["accuracy"]["ci95"]
        assert low < about["accuracy"]["mean"] < high
        assert about["auroc"]["mean"] > about["accuracy"]["mean"]
        assert np.sum(about["confusion"]) == pytest.approx(240)
        assert [row["draw"] for row in about["per_draw"]] == [0, 1, 2]
        assert np.mean([row["accuracy"] for row in about["per_draw"]]) == pytest.approx(about["accuracy"]["mean"])
        assert about["saved_classifier"] == {"draw": 0, "accuracy": about["per_draw"][0]["accuracy"]}

    def test_baselines_are_paired_with_the_codes(self, result: tuple[dict[str, Any], Path]) -> None:
        found = result[0]["baselines"]
        assert list(found) == ["majority", "pixels", "hog", "random"]
        assert found["majority"]["accuracy"]["mean"] == pytest.approx(0.5)
        assert found["majority"]["accuracy"]["sd"] == 0
        assert abs(found["hog"]["accuracy"]["mean"] - 0.5) < 0.1
        assert 0.7 < found["pixels"]["accuracy"]["mean"] <= 1
        assert found["random"]["accuracy"]["mean"] == 1
        mean = result[0]["probe"]["accuracy"]["mean"]
        for entry in found.values():
            assert entry["difference"]["mean"] == pytest.approx(mean - entry["accuracy"]["mean"])
            low, high = entry["difference"]["ci95"]
            assert low <= entry["difference"]["mean"] <= high
        assert found["random"]["difference"]["ci95"][1] < 0 < found["hog"]["difference"]["ci95"][0]
        assert "32 principal components fitted on 60 unlabelled images" in found["pixels"]["title"]

    def test_curve_reuses_the_main_draws(self, result: tuple[dict[str, Any], Path]) -> None:
        curve = result[0]["curve"]
        assert (curve["labels"], curve["draws"]) == ([10, 20], [3, 3])
        assert set(curve["accuracy"]) == {"codes", "pixels", "hog", "random", "majority"}
        assert curve["accuracy"]["codes"][1] == result[0]["probe"]["accuracy"]
        assert curve["accuracy"]["pixels"][1] == result[0]["baselines"]["pixels"]["accuracy"]

    def test_files(self, result: tuple[dict[str, Any], Path], codes: Codes) -> None:
        returned, out = result
        assert sorted(path.name for path in out.iterdir()) == [
            "classifier.json",
            "classifier.npz",
            "draws.csv",
            "predictions.csv",
            "results.json",
        ]

        def no_nan(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        assert json.loads((out / "results.json").read_text(), parse_constant=no_nan) == returned
        table = pd.read_csv(out / "predictions.csv")
        assert list(table) == ["file", "id", "label", "predicted", "p_cat", "p_dog", "share_right"]
        assert len(table) == 240
        accuracy = (table["label"] == table["predicted"]).mean()
        assert accuracy == pytest.approx(returned["probe"]["saved_classifier"]["accuracy"])
        assert table["share_right"].mean() == pytest.approx(returned["probe"]["accuracy"]["mean"], abs=1e-5)
        draws = pd.read_csv(out / "draws.csv")
        assert draws.groupby(["size", "draw"]).size().to_dict() == {
            (size, number): size for size in (10, 20) for number in range(3)
        }
        split = codes.manifest.set_index("id")["split"]
        assert set(split[draws["id"]]) == {"labelled"}

    def test_same_seed_same_files_other_seed_other_draws(
        self, result: tuple[dict[str, Any], Path], codes: Codes, images: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        probe(codes, QUICK, seed=3, out=tmp_path / "same", images=images)
        for path in result[1].iterdir():
            again = tmp_path / "same" / path.name
            if path.name == "results.json":
                first, second = json.loads(path.read_text()), json.loads(again.read_text())
                del first["probe"]["seconds"], second["probe"]["seconds"]
                assert first == second
            else:
                assert path.read_bytes() == again.read_bytes(), path.name
        probe(codes, QUICK, seed=4, out=tmp_path / "other")
        assert (tmp_path / "other" / "draws.csv").read_bytes() != (result[1] / "draws.csv").read_bytes()

    def test_baselines_do_not_change_the_codes_result(
        self, result: tuple[dict[str, Any], Path], codes: Codes, tmp_path: Path
    ) -> None:
        alone = probe(codes, QUICK, seed=3, out=tmp_path)
        assert {**alone["probe"], "seconds": 0} == {**result[0]["probe"], "seconds": 0}
        assert list(alone["baselines"]) == ["majority"]

    def test_features_too_large_to_hold_give_the_same(
        self, result: tuple[dict[str, Any], Path], codes: Codes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("stage2_probe.features.HELD_BYTES", 0)
        assert probe(codes, QUICK, seed=3, out=tmp_path)["probe"]["accuracy"] == result[0]["probe"]["accuracy"]


class TestHonesty:
    @pytest.mark.parametrize("split", ["labelled", "test"])
    def test_shuffled_labels_bring_chance(self, codes: Codes, split: str, tmp_path: Path) -> None:
        labels = codes.manifest.loc[codes.manifest["split"] == split, "label"].to_numpy()
        settings = QUICK.model_copy(update={"curve": ()})
        found = []
        for seed in range(6):  # one shuffle of 120 labels may lean to either side by some 10 points
            other = relabelled(codes, split, np.random.default_rng(seed).permutation(labels))
            found.append(probe(other, settings, seed=3, out=tmp_path)["probe"]["accuracy"]["mean"])
        assert abs(np.mean(found) - 0.5) < 0.08

    def test_nothing_that_is_fitted_sees_the_test_set(
        self, codes: Codes, images: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        """Exchange the test set's labels and images: draws, chosen regularisation and classifier stay the same."""
        flipped = np.where(codes.manifest.loc[codes.manifest["split"] == "test", "label"] == "cat", "dog", "cat")
        is_test = (codes.manifest["split"] == "test").to_numpy()
        noise = {name: np.where(is_test[:, None], array[::-1], array) for name, array in images.items()}
        first = probe(codes, QUICK, seed=3, out=tmp_path / "a", images=images)
        second = probe(relabelled(codes, "test", flipped), QUICK, seed=3, out=tmp_path / "b", images=noise)
        assert second["probe"]["accuracy"]["mean"] == pytest.approx(1 - first["probe"]["accuracy"]["mean"])
        for key in ("draw", "chosen"):
            assert [x[key] for x in first["probe"]["per_draw"]] == [x[key] for x in second["probe"]["per_draw"]]
        for name in ("classifier.npz", "draws.csv"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_labels_of_unlabelled_images_are_never_read(
        self, result: tuple[dict[str, Any], Path], codes: Codes, images: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        other = relabelled(codes, "unlabelled", np.full(60, "zebra"))
        again = probe(other, QUICK, seed=3, out=tmp_path, images=images)
        assert {**again["probe"], "seconds": 0} == {**result[0]["probe"], "seconds": 0}
        assert again["baselines"] == result[0]["baselines"]

    def test_subjects_stay_whole(self, tmp_path: Path) -> None:
        table = samples(n=420, slices=5)
        codes = store(tmp_path / "c.h5", table)
        found = probe(codes, Probe(labels=8, draws=3, curve=(), features="mean"), seed=0, out=tmp_path / "out")["probe"]
        assert (found["grouped"], found["unit"], found["n_test_groups"]) == (True, "groups", 48)
        assert (found["n_pool"], found["n_test"]) == (24, 240)
        drawn = pd.read_csv(tmp_path / "out" / "draws.csv").merge(codes.manifest[["id", "group"]], on="id")
        assert (drawn.groupby(["draw", "group"]).size() == 5).all()
        assert (drawn.groupby("draw")["group"].nunique() == 8).all()

    def test_the_whole_pool_is_one_draw(self, codes: Codes, tmp_path: Path) -> None:
        settings = Probe(labels=120, draws=20, curve=(120, 200), features="mean")
        found = probe(codes, settings, seed=0, out=tmp_path)
        assert found["probe"]["draws"] == 1
        assert found["probe"]["accuracy"]["sd"] is None
        assert found["probe"]["accuracy"]["ci95"][0] < found["probe"]["accuracy"]["mean"]
        assert found["curve"]["labels"] == [120]


class TestPredict:
    def test_round_trip_across_formats(self, result: tuple[dict[str, Any], Path], codes: Codes, tmp_path: Path) -> None:
        table = pd.read_csv(result[1] / "predictions.csv")
        copy = store(tmp_path / "npy", samples(n=420), content="vectors")
        rows = np.flatnonzero(codes.manifest["split"] == "test")
        for source in (codes, copy):
            again = predict(result[1], source, rows)
            assert list(again) == ["file", "id", "predicted", "p_cat", "p_dog"]
            np.testing.assert_array_equal(again["predicted"], table["predicted"])
            np.testing.assert_allclose(again["p_cat"], table["p_cat"], atol=1e-6)
            np.testing.assert_allclose(again["p_cat"] + again["p_dog"], 1, atol=1e-12)
        pd.testing.assert_frame_equal(predict(result[1], codes), predict(result[1], copy), check_dtype=False)

    def test_other_codes_are_refused(self, result: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
        other = store(tmp_path / "other.h5", samples(n=14), model_hash="cd" * 32)
        with pytest.raises(ToolkitError, match=r"come from another model \(cdcd.*fitted on \(abab"):
            predict(result[1], other)
        latents = store(tmp_path / "latents.h5", samples(n=14), content="latents")
        with pytest.raises(ToolkitError, match="hold latents, but the classifier was fitted on codes"):
            predict(result[1], latents)
        with pytest.raises(ToolkitError, match="no saved classifier"):
            predict(tmp_path, other)


class TestRefusals:
    def test_baselines_of_other_data(self, codes: Codes, tmp_path: Path) -> None:
        with pytest.raises(ToolkitError, match="'hog' has 3 rows, but the store holds 420"):
            probe(codes, QUICK, seed=0, out=tmp_path, images={"hog": np.zeros((3, 2))})
        with pytest.raises(ToolkitError, match="no baseline called 'sift': choose from pixels, hog, random"):
            probe(codes, QUICK, seed=0, out=tmp_path, images={"sift": np.zeros((420, 2))})

    def test_refused_before_any_work(self, codes: Codes, tmp_path: Path) -> None:
        for settings, message in (
            (Probe(labels=500), r"probe\.labels = 500"),
            (Probe(labels=20, features="pyramid", grid=9), r"probe\.grid = 9"),
        ):
            with pytest.raises(ToolkitError, match=message):
                probe(codes, settings, seed=0, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestAuto:
    """`probe.features = auto`: each draw chooses for itself, by its own cross-validation."""

    AUTO = Probe(labels=40, draws=6, curve=(40,), features="auto")

    def test_chooses_what_tells_the_classes_apart(self, codes: Codes, tmp_path: Path) -> None:
        found = probe(codes, self.AUTO, seed=0, out=tmp_path)["probe"]
        assert found["features"] == "auto"
        assert sum(found["features_chosen"].values()) == 6
        alone = {}
        for kind in ("mean", "cells", "histogram"):
            settings = self.AUTO.model_copy(update={"features": kind})
            alone[kind] = probe(codes, settings, seed=0, out=tmp_path / kind)["probe"]["accuracy"]["mean"]
        assert found["features_chosen"]["histogram of codes"] >= 4  # the codebook is random: counts tell most
        assert found["accuracy"]["mean"] > min(alone.values())
        assert found["accuracy"]["mean"] == pytest.approx(max(alone.values()), abs=0.03)

    def test_a_baseline_chooses_among_its_own_arrays(self, codes: Codes, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        is_cat = (codes.manifest["label"] == "cat").to_numpy()[:, None]
        noise, telling = rng.normal(size=(420, 8)), rng.normal(size=(420, 8)) * 0.01 + is_cat
        found = probe(codes, self.AUTO, seed=0, out=tmp_path, images={"random": [noise, telling]})
        assert found["baselines"]["random"]["accuracy"]["mean"] == 1

    def test_saved_classifier_reads_the_features_of_its_own_draw(self, codes: Codes, tmp_path: Path) -> None:
        probe(codes, self.AUTO, seed=0, out=tmp_path)
        table = pd.read_csv(tmp_path / "predictions.csv")
        again = predict(tmp_path, codes, np.flatnonzero(codes.manifest["split"] == "test"))
        np.testing.assert_array_equal(again["predicted"], table["predicted"])
        np.testing.assert_allclose(again["p_cat"], table["p_cat"], atol=1e-6)


class TestAgainstOtherCodes:
    def test_is_paired_on_the_same_draws(self, codes: Codes, tmp_path: Path) -> None:
        settings = QUICK.model_copy(update={"curve": ()})
        backwards = samples(n=420).iloc[::-1].reset_index(drop=True)  # the same images in another order
        worse = store(tmp_path / "other.h5", backwards, signal=0.2, model_hash="cd" * 32)
        alone = probe(worse, settings, seed=0, out=tmp_path / "a")["probe"]["accuracy"]["mean"]
        found = probe(codes, settings, seed=0, out=tmp_path / "b", against=worse)
        other = found["baselines"]["other"]
        assert other["title"] == f"the codes of {worse.path}"
        assert other["difference"]["ci95"][0] > 0
        assert other["accuracy"]["mean"] == pytest.approx(alone, abs=0.08)  # other draws: rows stand elsewhere
        itself = probe(codes, settings, seed=0, out=tmp_path / "c", against=codes)["baselines"]["other"]["difference"]
        assert itself == {"mean": 0.0, "ci95": [0.0, 0.0]}

    def test_of_other_files_or_of_images_it_learned_from_is_refused(self, codes: Codes, tmp_path: Path) -> None:
        files = store(tmp_path / "files.h5", samples(n=420).assign(sha256="ff"))
        with pytest.raises(ToolkitError, match=r"other files of the same names, such as"):
            probe(codes, QUICK, seed=0, out=tmp_path / "out", against=files)
        table = samples(n=420)
        swapped = table.assign(split=table["split"].replace({"test": "unlabelled", "unlabelled": "test"}))
        leaking = store(tmp_path / "leaking.h5", swapped)
        with pytest.raises(ToolkitError, match=r"was trained on \d+ of the \d+ images that judge here"):
            probe(codes, QUICK, seed=0, out=tmp_path / "out", against=leaking)

    def test_of_other_images_is_refused(self, codes: Codes, tmp_path: Path) -> None:
        fewer = store(tmp_path / "other.h5", samples(n=400))
        with pytest.raises(ToolkitError, match=r"other\.h5 lacks \d+ of the \d+ images.*encode the same images"):
            probe(codes, QUICK, seed=0, out=tmp_path / "out", against=fewer)


class TestJudgedOnThePool:
    def test_no_test_image_is_touched(self, tmp_path: Path) -> None:
        settings = QUICK.model_copy(update={"judge": "pool", "curve": ()})
        table = samples(n=420)
        plain = probe(store(tmp_path / "a.h5", table), settings, seed=0, out=tmp_path / "a")["probe"]
        spoiled = table.assign(label=np.where(table["split"] == "test", "dog", table["label"]))
        again = probe(store(tmp_path / "b.h5", spoiled), settings, seed=0, out=tmp_path / "b")["probe"]
        pool = int((table["split"] == "labelled").sum())
        assert (plain["judge"], plain["n_test"] + plain["n_pool"]) == ("pool", pool)
        judged = set(pd.read_csv(tmp_path / "a" / "predictions.csv")["id"])
        assert judged <= set(table["id"][table["split"] == "labelled"])
        assert not judged & set(pd.read_csv(tmp_path / "a" / "draws.csv")["id"])
        assert again["n_test"] == plain["n_test"]

    def test_groups_stay_on_one_side(self) -> None:
        manifest = manifest_of(samples(n=420, slices=5), np.arange(420))
        task = task_of(manifest, judge="pool", seed=1)
        assert not set(manifest["group"].iloc[task.pool]) & set(manifest["group"].iloc[task.test])
        assert set(manifest["split"].iloc[[*task.pool, *task.test]]) == {"labelled"}
        other = task_of(manifest, judge="pool", seed=2)
        assert set(other.test) != set(task.test)


def test_cnn_works_on_the_grid_and_leaves_baselines_to_logistic(
    codes: Codes, images: dict[str, np.ndarray], tmp_path: Path
) -> None:
    settings = Probe(labels=20, draws=1, curve=(), classifier="cnn")
    found = probe(codes, settings, seed=0, out=tmp_path, images={"hog": images["hog"]})
    assert found["probe"]["features"] == "vectors of codes"
    assert found["probe"]["accuracy"]["mean"] > 0.7
    assert found["baselines"]["hog"]["title"].endswith("(logistic regression)")
    table = pd.read_csv(tmp_path / "predictions.csv")
    again = predict(tmp_path, codes, np.flatnonzero(codes.manifest["split"] == "test"))
    np.testing.assert_array_equal(again["predicted"], table["predicted"])


def test_without_torch(codes: Codes, tmp_path: Path) -> None:
    """With torch's import blocked everything but the CNN works, and the CNN says what it lacks."""
    script = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Block())
from pathlib import Path
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import open_codes
from toolkit_datasets.errors import ToolkitError
from stage2_probe.probe import probe
from stage2_probe.task import task_of
from stage2_probe.predict import predict
codes, out = open_codes(Path(sys.argv[1])), Path(sys.argv[2])
for name in ("logistic", "ridge", "svm", "knn", "mlp"):
    found = probe(codes, Probe(labels=20, draws=2, curve=(), classifier=name), seed=0, out=out / name)
    assert found["probe"]["accuracy"]["mean"] > 0.7, (name, found["probe"]["accuracy"])
    predict(out / name, codes)
try:
    probe(codes, Probe(labels=20, classifier="cnn"), seed=0, out=out / "cnn")
except ToolkitError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(codes.path), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the cnn needs torch")
    assert done.stderr == ""  # no warning litters the terminal


@pytest.mark.parametrize("width", [12, 400])
def test_principal_axes_equal_an_exact_decomposition(width: int) -> None:
    rng = np.random.default_rng(0)
    array = (rng.normal(size=(200, width)) * np.geomspace(30, 1, width) + 100).astype(np.uint8)
    rows = np.arange(20, 180)
    mean, axes = principal_axes(array, rows, 6, seed=0)
    x = array[rows].astype(np.float64)
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-4)
    exact = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[:6] ** 2
    captured = (((x - x.mean(axis=0)) @ axes) ** 2).sum(axis=0)
    np.testing.assert_allclose(captured, exact, rtol=1e-4 if width == 12 else 2e-2)
    assert principal_axes(array, rows[:4], 6, seed=0)[1].shape == (width, 3)
