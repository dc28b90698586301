"""The probe from end to end on small stores: its results, its files, and what it chooses by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from two_classes import QUICK, samples, store, telling_images

from stage2_probe.baselines import principal_axes
from stage2_probe.predict import predict
from stage2_probe.probe import probe
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes
from toolkit_datasets.errors import ToolkitError


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Codes:
    return store(tmp_path_factory.mktemp("store") / "codes.h5", samples(n=420))


@pytest.fixture(scope="module")
def images(codes: Codes) -> dict[str, np.ndarray]:
    return telling_images(codes)


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
        """Nothing held, and blocks of five rows: what streams gives the scores of what is in memory."""
        monkeypatch.setattr("stage2_probe.features.HELD_BYTES", 0)
        monkeypatch.setattr("stage2_probe.features.BLOCK_BYTES", 5 * 4 * 8)
        found = probe(codes, QUICK, seed=3, out=tmp_path)
        assert found["probe"]["accuracy"] == result[0]["probe"]["accuracy"]
        assert found["probe"]["per_draw"] == result[0]["probe"]["per_draw"]
        assert found["probe"]["auroc"]["mean"] == pytest.approx(result[0]["probe"]["auroc"]["mean"], abs=1e-6)
        assert found["curve"]["accuracy"]["codes"] == result[0]["curve"]["accuracy"]["codes"]


def test_every_test_sample_is_read_once_however_many_draws_there_are(
    codes: Codes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[np.ndarray] = []
    indices = Codes.indices

    def counted(self: Codes, level: str, rows: np.ndarray) -> np.ndarray:
        read.append(rows)
        return indices(self, level, rows)

    monkeypatch.setattr(Codes, "indices", counted)
    level = codes.info.levels[0]
    row = 12 * level.dim * level.height * level.width  # bytes: its vectors, turned, and the codes that they are
    monkeypatch.setattr("stage2_probe.features.BLOCK_BYTES", 16 * row)
    probe(codes, QUICK.model_copy(update={"curve": (10, 20, 50)}), seed=0, out=tmp_path)
    assert max(map(len, read)) == 16
    times = np.bincount(np.concatenate(read), minlength=len(codes))
    split = codes.manifest["split"].to_numpy()
    assert (times[split == "test"] == 1).all()
    assert (times[split == "unlabelled"] == 0).all()
    drawn = pd.read_csv(tmp_path / "draws.csv")["id"].unique()
    assert (times[codes.manifest["id"].isin(drawn)] == 1).all(), "the rows of all draws are read together"
    assert times.sum() == (split == "test").sum() + len(drawn)


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
