"""Two levels of codes through whole commands, on small real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_runs
from commands import results, toolkit

from toolkit_datasets.codes import open_codes

SETS = small_runs.SETS["agree"]


def test_each_level_has_a_folder_of_files_with_one_manifest(agree_run: Path) -> None:
    manifest = pd.read_csv(agree_run / "codes" / "manifest.csv")
    for level, shape in (("fine", (16, 4, 4)), ("coarse", (64, 2, 2)), ("patterns", (32, 2, 2))):
        assert np.load(agree_run / "codes" / level / manifest["file"][0]).shape == shape
    assert (agree_run / "probe" / "curve.png").read_bytes()[1:4] == b"PNG"
    report = (agree_run / "report.html").read_text(encoding="utf-8")
    for words in ("Level fine", "Level coarse", "epochs of agreement", "chosen inside each draw"):
        assert words in report


def test_separate_steps_and_hdf5_give_the_same_numbers(agree_run: Path, tmp_path: Path) -> None:
    toolkit("train", "digits", "--out", tmp_path / "run", "--objective", "agree", sets=SETS)
    toolkit("encode", tmp_path / "run", "--out", tmp_path / "codes.h5")
    toolkit("encode", tmp_path / "run", "--out", tmp_path / "indices", "--content", "indices")
    for store in ("codes.h5", "indices"):
        toolkit("probe", tmp_path / store, "--out", tmp_path / f"{store}-probe")
        steps = results(tmp_path / f"{store}-probe")
        for part in ("probe", "baselines", "curve"):
            assert steps[part] == results(agree_run)[part], (store, part)


def test_info_counts_each_residual_code_by_itself(agree_run: Path, tmp_path: Path) -> None:
    toolkit("encode", agree_run, "--out", tmp_path / "codes.h5")
    told = json.loads(toolkit("info", tmp_path / "codes.h5", "--json").stdout)["codes"]["levels"]
    counted = json.loads((agree_run / "stage1" / "metrics.json").read_text())["levels"]
    for level in told:
        assert level["usage"] == pytest.approx(counted[level["name"]]["usage"])
        assert level["perplexity"] == pytest.approx(counted[level["name"]]["perplexity"], rel=1e-6)
    assert "coarse: " in toolkit("info", agree_run).output


def test_predict_and_decode_new_codes(agree_run: Path, tmp_path: Path) -> None:
    toolkit("encode", agree_run, "--out", tmp_path / "codes")
    toolkit("predict", agree_run / "probe", tmp_path / "codes", "--out", tmp_path / "labels.csv")
    table = pd.read_csv(tmp_path / "labels.csv", dtype=str)
    truth = open_codes(tmp_path / "codes").manifest["label"]
    assert (table["predicted"] == truth.to_numpy()).mean() > 0.3, "chance is 0.1"
    toolkit("decode", tmp_path / "codes", "--run", agree_run, "--out", tmp_path / "images", "--limit", 3)
    assert len(list((tmp_path / "images").glob("*.png"))) == 3


def test_compared_with_plain_codes_on_the_same_draws(agree_run: Path, tmp_path: Path) -> None:
    toolkit("train", "digits", "--out", tmp_path / "plain", "--objective", "reconstruct", sets=SETS)
    toolkit("encode", tmp_path / "plain")
    shown = toolkit("probe", agree_run / "codes", "--against", tmp_path / "plain" / "codes", "--out", tmp_path / "p")
    assert "other codes" in shown.output
    assert "other" in results(tmp_path / "p")["curve"]["accuracy"]
    toolkit("train", "digits", "--out", tmp_path / "seed", "--seed", 1, sets=SETS)
    toolkit("encode", tmp_path / "seed")
    refused = toolkit("probe", agree_run / "codes", "--against", tmp_path / "seed" / "codes", code=1)
    assert "lacks" in refused.output
    assert "same split" in refused.output


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("probe.classifier=cnn", "probe.levels"),
        ('probe.levels=["top"]', "no level 'top'"),
        ("probe.features=histogram", "--content indices"),
        ("probe.labels=150", "probe.labels = 150"),
    ],
)
def test_an_impossible_probe_is_refused_before_the_training(override: str, words: str, tmp_path: Path) -> None:
    sets = [*SETS, "probe.judge=pool", override]
    error = toolkit("run", "digits", "--out", tmp_path / "run", "--objective", "agree", sets=sets, code=1)
    assert words in error.output
    assert not (tmp_path / "run" / "stage1").exists()
