"""Continuous targets through whole commands, on real digits whose target is their ink, and in the report."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from commands import toolkit
from PIL import Image

from toolkit import report, target_plots, wording
from toolkit_datasets.codes import open_codes

SETS = [
    "labels.kind=continuous",
    "image.size=16",
    "image.channels=1",
    "vqvae.stride=4",
    "train.objective=reconstruct",
    "train.epochs=3",
    "probe.features=vectors",
    "probe.labels=40",
    "probe.draws=4",
    "probe.curve=[10, 40]",
]


def copy_without_kind(source: Path, target: Path) -> Path:
    """The same store as a toolkit would have written it whose cards had no `labels.kind`."""
    shutil.copytree(source, target)
    meta = json.loads((target / "meta.json").read_text())
    del meta["card"]["labels"]["kind"]
    (target / "meta.json").write_text(json.dumps(meta))
    return target


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    data["probe"].pop("seconds")
    return data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, digit_pictures: list[tuple[np.ndarray, str]]) -> Path:
    """500 digits as PNG files, and ink.csv beside them: the sum of the pixels of each, in units of a black one."""
    root = tmp_path_factory.mktemp("ink")
    (root / "images").mkdir()
    rows = ["file,label"]
    for i, (image, _) in enumerate(digit_pictures[:500]):
        Image.fromarray(image).resize((16, 16)).save(root / "images" / f"{i}.png")
        rows += [f"{i}.png,{image.sum() / 255:.3f}"] if i < 480 else []
    (root / "ink.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    out = tmp_path_factory.mktemp("runs") / "ink"
    words = ("run", "folder", "--data", data / "images", "--labels", data / "ink.csv", "--out", out)
    return out, toolkit(*words, sets=SETS)


def test_a_run_says_errors_and_finds_the_ink(done: tuple[Path, Result]) -> None:
    out, result = done
    found = read(out / "results.json")
    assert (found["probe"]["kind"], found["probe"]["classifier"]) == ("continuous", "ridge")
    assert set(found["baselines"]) == {"mean", "pixels", "hog", "random"}
    assert found["baselines"]["pixels"]["r2"]["mean"] > 0.9, "ink is a linear function of the pixels"
    assert found["probe"]["mae"]["mean"] < found["baselines"]["mean"]["mae"]["mean"]
    assert found["samples"]["splits"]["test"] == {"target": found["probe"]["n_test"]}
    for word in (
        "mean absolute error of",
        "R²",
        "the mean of the labels",
        ": worse",
        ": not distinguishable",
        ", ridge)",
    ):
        assert word in result.output, word
    assert re.fullmatch(r"\d{3}_\d+\.\d{3}\.npy", sorted(path.name for path in (out / "codes").glob("*_*.npy"))[0])


def test_a_store_knows_the_kind_and_separate_steps_give_the_same(
    done: tuple[Path, Result], data: Path, tmp_path: Path
) -> None:
    out, _ = done
    assert open_codes(out / "codes").info.card["labels"]["kind"] == "continuous"
    toolkit("encode", out, "--out", tmp_path / "codes.h5")
    toolkit("probe", tmp_path / "codes.h5", "--data", data / "images", "--out", tmp_path / "p")
    whole, steps = read(out / "results.json"), read(tmp_path / "p" / "results.json")
    for part in ("probe", "baselines", "curve"):
        assert steps[part] == whole[part], part
    assert "mean absolute error" in toolkit("info", tmp_path / "p").output
    assert "mean absolute error" in toolkit("info", out).output


def test_the_saved_regressor_predicts_the_same_and_new_images_too(
    done: tuple[Path, Result], data: Path, tmp_path: Path
) -> None:
    out, _ = done
    toolkit("predict", out / "probe", out / "codes", "--out", tmp_path / "all.csv")
    everything = pd.read_csv(tmp_path / "all.csv")
    assert list(everything) == ["file", "id", "prediction"]
    of_probe = pd.read_csv(out / "probe" / "predictions.csv")
    again = everything.set_index("file").loc[of_probe["file"], "prediction"]
    np.testing.assert_allclose(again, of_probe["prediction"], rtol=1e-7)
    (tmp_path / "new" / "oak").mkdir(parents=True)
    for i in range(480, 500):  # in a folder that the card would read as a label, and which is no number
        image = Image.open(data / "images" / f"{i}.png")
        image.save(tmp_path / "new" / "oak" / f"{i}.png")
    toolkit("encode", out, "--data", tmp_path / "new", "--out", tmp_path / "new-codes")
    printed = toolkit("predict", out / "probe", tmp_path / "new-codes", "--json").stdout
    low, high = read(out / "results.json")["probe"]["target"]["pool"]["min"], 40
    assert all(low / 2 < row["prediction"] < high for row in json.loads(printed))


def test_the_kind_can_be_said_at_the_probe(done: tuple[Path, Result], tmp_path: Path) -> None:
    out, _ = done
    store = copy_without_kind(out / "codes", tmp_path / "codes")
    toolkit("probe", store, "--out", tmp_path / "p", sets=["labels.kind=continuous", "probe.baselines=[]"])
    assert read(tmp_path / "p" / "results.json")["probe"]["kind"] == "continuous"


def test_mistakes_are_said_before_any_training(data: Path, tmp_path: Path) -> None:
    words = ("run", "folder", "--data", data / "images", "--labels", tmp_path / "t.csv", "--out", tmp_path / "run")
    rows = "".join(f"{i}.png,{i}\n" for i in range(480))
    (tmp_path / "t.csv").write_text(f"file,label\n{rows}481.png,tall\n")
    assert "labels 481.png 'tall', which is no finite number" in toolkit(*words, sets=SETS, code=1).output
    (tmp_path / "t.csv").write_text(f"file,label\n{rows}")
    output = toolkit(*words, sets=[*SETS, "probe.classifier=svm"], code=1).output
    assert "'svm' predicts classes" in output
    assert not (tmp_path / "run" / "stage1").exists()
    described = toolkit("datasets", *words[1:-2], sets=SETS).output
    assert "480 numbers from 0 to 479, median 239.5; 20 without" in described
    planned = toolkit("run", *words[1:], "--dry-run", sets=SETS).output
    assert "4 draws of 40 labels, vectors -> ridge" in planned


def test_one_number_for_all_is_an_error_of_the_probe_and_not_of_training(data: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(f"{i}.png,7\n" for i in range(100)))
    words = ("run", "folder", "--data", data / "images", "--labels", tmp_path / "t.csv", "--out", tmp_path / "run")
    shown = toolkit(*words, sets=[*SETS, "train.epochs=1", "split.unlabelled=0.2"])
    assert "all labelled images have the same number, 7" in shown.output
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<th>target</th>" in html


def section(html: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', html, re.DOTALL)
    assert found, name
    return found[1]


def test_the_report_shows_errors_scatter_and_extremes(done: tuple[Path, Result]) -> None:
    html = (done[0] / "report.html").read_text(encoding="utf-8")
    for name in ("accuracy", "label-curve", "scatter", "map"):
        assert "<svg" in section(html, name), name
    assert 'id="confusion"' not in html
    assert "smaller is better" in section(html, "accuracy")
    assert section(html, "gallery").count("<img") == 16
    assert "balanced over quantile bins" in section(html, "honesty")
    assert "lowest third" in section(html, "map")
    assert "<th>target</th>" in section(html, "data")
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_a_report_without_predictions_leaves_a_note(done: tuple[Path, Result], tmp_path: Path) -> None:
    results = json.loads((done[0] / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results))
    html = report.write_report(tmp_path, None).read_text(encoding="utf-8")
    assert 'class="missing"' in section(html, "scatter")


def scores(mae: float, r2: float, difference: float | None = None) -> dict[str, Any]:
    of = {"mae": {"mean": mae, "sd": 0.1, "ci95": [mae - 0.2, mae + 0.2]}, "r2": {"mean": r2, "sd": 0.1, "ci95": None}}
    if difference is None:
        return of
    bounds = [difference - 0.1, difference + 0.1]
    return {**of, "difference": {"mae": {"mean": difference, "ci95": bounds}, "r2": {"mean": 0.0, "ci95": bounds}}}


def test_smaller_errors_are_better_in_words() -> None:
    results = {
        "probe": {"kind": "continuous", "classifier": "ridge", "n_labelled": 100, "n_test": 1500, **scores(4.0, 0.61)},
        "baselines": {
            "mean": scores(9.0, -0.01, -5.0),
            "pixels": scores(3.5, 0.7, 0.5),
            "hog": scores(4.02, 0.6, -0.02),
        },
    }
    found = wording.headline(results, {})
    assert found["result"] == (
        "With 100 labels, ridge regression on these codes predicts the targets of 1,500 test images with a mean "
        "absolute error of 4.00 (95 % interval 3.80 to 4.20) and an R² of 0.61."
    )
    assert found["verdict"] == (
        "That is better than the mean of the labels (9.00); worse than raw pixels (3.50); not distinguishable from "
        "HOG (4.02)."
    )
    assert found["conclusion"] == "The codes are NOT better than raw pixels and HOG here."


def test_plots_of_targets_are_small_and_show_each_third() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=20_000)
    assert len(target_plots.scatter(target, target + 1)) < 1_000_000
    assert "<svg" in target_plots.scatter(np.ones(3), np.ones(3))
    svg = target_plots.target_map(rng.normal(size=(60, 2)), np.r_[np.arange(50.0), [np.nan] * 10], (0.5, 0.2))
    for text in ("lowest third (up to 16.3)", "middle third", "highest third (above 32.7)", "no label"):
        assert text in svg
    assert not re.findall(r"(?<!, )#[0-9a-f]{6}", svg), "colours follow the page"
