"""On the real photographs, by the commands that a user types. They skip where TOOLKIT_REAL_DATA names no folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import results, toolkit

from toolkit_datasets.codes import open_codes

PLAIN = ["train.objective=reconstruct", "vqvae.codebook_size=128"]
SMALL = [*PLAIN, "train.epochs=3", "probe.draws=5", "probe.curve=[20]"]


def test_what_lies_in_the_kaggle_folder(real_data: Path) -> None:
    """Counts and duplicates as the data's own description states them: 25,000 pictures, 24,994 of them distinct."""
    shown = toolkit("datasets", "cats-vs-dogs", "--data", real_data / "cats_vs_dogs" / "train", "--json")
    found = json.loads(shown.stdout)
    assert found["labels"] == {"cat": 12500, "dog": 12500}
    assert found["sizes"] == {"80x80": 25000}
    assert (found["grouped"], found["groups"]) == (11, 5)
    assert {split: sum(counts.values()) for split, counts in found["splits"].items()} == {
        "unlabelled": 5000,
        "labelled": 5000,
        "test": 15000,
    }
    assert found["skipped"] == []


def test_what_lies_in_the_brain_tumour_folder(real_data: Path) -> None:
    found = json.loads(
        toolkit("datasets", "brain-tumour", "--data", real_data / "brain_tumour_slices", "--json").stdout
    )
    assert {split: sum(counts.values()) for split, counts in found["splits"].items()} == {
        "unlabelled": 1500,
        "labelled": 2133,
        "test": 962,
        "unused": 1679,  # near duplicates of test images
    }
    assert found["splits"]["test"] == {"glioma": 225, "meningioma": 226, "notumor": 286, "pituitary": 225}
    assert set(found["modes"]) == {"L", "RGB"}
    assert found["becomes"]["channels"] == 1


@pytest.fixture(scope="module")
def mixed(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 real pictures with the odd and the broken ones among them, under names that carry a label."""
    folder = tmp_path_factory.mktemp("mixed")
    for label in ("cat", "dog"):
        for i in range(300):
            name = f"{label}.{i}.jpg"
            shutil.copy(real_data / "cats_vs_dogs" / "train" / name, folder / name)
    for path in (real_data / "cats_vs_dogs_corrupt").iterdir():
        target = path.name if path.name.startswith((".", "README")) else f"cat.9{path.name}"
        shutil.copy(path, folder / target)
    return folder


def test_a_folder_with_broken_pictures_runs_to_the_end(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [*SMALL, "split.unlabelled=0.4", "split.labelled=0.3", "split.test=0.3"]
    shown = toolkit("run", "cats-vs-dogs", "--data", mixed, "--out", tmp_path / "run", sets=sets, code=3)
    assert "skipped 7 of 627 images" in shown.output
    samples = pd.read_csv(tmp_path / "run" / "samples.csv", keep_default_na=False, dtype=str)
    bad = samples[samples["status"] != "ok"]
    assert len(bad) == 7
    assert (bad["split"] == "").all()
    assert bad["status"].str.contains("bomb").sum() == 1
    codes = open_codes(tmp_path / "run" / "codes")
    assert not set(codes.manifest["path"]) & set(bad["path"])
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "decompression bomb" in report
    stopped = toolkit("run", "cats-vs-dogs", "--data", mixed, "--out", tmp_path / "x", "--fail-fast", sets=sets, code=1)
    assert "--fail-fast" in stopped.output

    # The same codes, read from the store whenever they are needed and in small blocks, give the same scores.
    monkeypatch.setattr("stage2_probe.features.HELD_BYTES", 0)
    monkeypatch.setattr("stage2_probe.features.BLOCK_BYTES", 1 << 16)
    toolkit("probe", tmp_path / "run" / "codes", "--out", tmp_path / "streamed", sets=["probe.baselines=[]"])
    whole, streamed = (results(tmp_path / name)["probe"] for name in ("run", "streamed"))
    for key in ("accuracy", "per_draw", "features_chosen", "confusion"):
        assert streamed[key] == whole[key]


def test_a_small_model_learns_real_pictures_and_beats_the_mean_image(real_data: Path, tmp_path: Path) -> None:
    data = real_data / "cats_vs_dogs" / "train"
    sets = [*SMALL, "image.size=32", "train.epochs=8", "train.batch_size=16"]
    toolkit("train", "cats-vs-dogs", "--data", data, "--out", tmp_path / "run", "--limit", 1500, sets=sets)
    metrics = json.loads((tmp_path / "run" / "stage1" / "metrics.json").read_text())
    assert metrics["splits"].keys() >= {"labelled", "test"}
    assert metrics["figures_on"] == "test"
    assert metrics["normalised_mse"] < 0.5, "1 is what the mean image scores"
    toolkit("encode", tmp_path / "run", "--content", "indices")
    toolkit("decode", tmp_path / "run" / "codes", "--out", tmp_path / "back", "--limit", 4)
    from PIL import Image

    from toolkit_datasets.card import load_card
    from toolkit_datasets.images import decode_file

    codes = open_codes(tmp_path / "run" / "codes")
    card = load_card(str(tmp_path / "run" / "card.toml"))
    for row in range(4):
        back = np.asarray(Image.open(tmp_path / "back" / f"{Path(codes.manifest['file'][row]).stem}.png"), float)
        original = decode_file(data / codes.manifest["path"][row], card.image).pixels.astype(float)
        assert ((back - original) ** 2).mean() < original.var(), "what comes back is the picture that went in"
