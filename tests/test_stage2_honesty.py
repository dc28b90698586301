"""What makes the probe's number honest: what it may see, whom it compares with, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_store import relabelled
from two_classes import QUICK, samples, store, telling_images

from stage2_probe.probe import probe
from stage2_probe.task import task_of
from toolkit_datasets.card_stages import Probe
from toolkit_datasets.codes import Codes, manifest_of
from toolkit_datasets.errors import ToolkitError


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> Codes:
    return store(tmp_path_factory.mktemp("store") / "codes.h5", samples(n=420))


@pytest.fixture(scope="module")
def images(codes: Codes) -> dict[str, np.ndarray]:
    return telling_images(codes)


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
        self, codes: Codes, images: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        other = relabelled(codes, "unlabelled", np.full(60, "zebra"))
        first, again = (probe(each, QUICK, seed=3, out=tmp_path, images=images) for each in (codes, other))
        assert {**again["probe"], "seconds": 0} == {**first["probe"], "seconds": 0}
        assert again["baselines"] == first["baselines"]

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
