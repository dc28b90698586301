"""A VAE through whole commands, on small real digits, beside a VQ-VAE of the same images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_runs
from commands import results, toolkit

from toolkit_datasets.codes import open_codes

SETS = small_runs.SETS["vae"]


def test_a_run_says_what_it_is_and_counts_no_codes(vae_run: Path) -> None:
    manifest = pd.read_csv(vae_run / "codes" / "manifest.csv")
    assert np.load(vae_run / "codes" / manifest["file"][0]).shape == (12, 1, 1)
    told = toolkit("info", vae_run).output
    assert "(latents, not quantised: 32 bits a number)" in told
    assert "level latents: 1x1 grid, 12 numbers at each place, not quantised, no codebook" in told
    assert "of 12 latents vary from image to image" in told
    assert "codes used" not in told
    for words in ("mean image", "input, blurred by 0.5 px", "PCA, 12 components in 1.5 bits per pixel"):
        assert words in told
    report = (vae_run / "report.html").read_text(encoding="utf-8")
    for words in ("<h2>Latents</h2>", "has no codebook", "mean image", "PCA, 12 components", "KL, nats per image"):
        assert words in report, words
    assert "<h2>Codebook</h2>" not in report
    assert (vae_run / "stage1" / "loss.png").read_bytes()[1:4] == b"PNG"
    assert "VAE of 12 latents that are not quantised" in toolkit(
        "run", "digits", "--objective", "vae", "--dry-run", sets=SETS
    ).output  # fmt: skip


def test_separate_steps_and_hdf5_give_the_same_numbers(vae_run: Path, tmp_path: Path) -> None:
    toolkit("train", "digits", "--out", tmp_path / "run", "--objective", "vae", sets=SETS)
    weights = "stage1/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (vae_run / weights).read_bytes()
    for store in ("npy", "codes.h5"):
        toolkit("encode", tmp_path / "run", "--out", tmp_path / store)
        toolkit("probe", tmp_path / store, "--out", tmp_path / f"{store}-probe")
        steps = results(tmp_path / f"{store}-probe")
        for part in ("probe", "baselines", "curve"):
            assert steps[part] == results(vae_run)[part], (store, part)


@pytest.mark.parametrize("features", ["vectors", "mean"])
@pytest.mark.parametrize("store", ["codes", "codes.h5"])
def test_latents_are_probed_predicted_and_decoded(features: str, store: str, vae_run: Path, tmp_path: Path) -> None:
    toolkit("encode", vae_run, "--out", tmp_path / store)
    toolkit("probe", tmp_path / store, "--out", tmp_path / "p", sets=[f"probe.features={features}"])
    assert results(tmp_path / "p")["probe"]["accuracy"]["mean"] > 0.4, "chance is 0.1"
    toolkit("predict", tmp_path / "p", tmp_path / store, "--out", tmp_path / "labels.csv")
    truth = open_codes(tmp_path / store).manifest["label"].to_numpy()
    assert (pd.read_csv(tmp_path / "labels.csv", dtype=str)["predicted"] == truth).mean() > 0.4
    toolkit("decode", tmp_path / store, "--run", vae_run, "--out", tmp_path / "images", "--limit", 3)
    assert len(list((tmp_path / "images").glob("*.png"))) == 3


def test_vae_against_vqvae_is_one_command(vae_run: Path, tmp_path: Path) -> None:
    toolkit("train", "digits", "--out", tmp_path / "vq", "--objective", "reconstruct", sets=SETS)
    toolkit("encode", tmp_path / "vq", "--out", tmp_path / "vq.h5")
    for mine, other in ((vae_run / "codes", tmp_path / "vq.h5"), (tmp_path / "vq.h5", vae_run / "codes")):
        shown = toolkit("probe", mine, "--against", other, "--out", tmp_path / f"{mine.name}-p", sets=[])
        assert "other codes" in shown.output
    there, back = (results(tmp_path / f"{name}-p") for name in ("codes", "vq.h5"))
    for one, another in ((there, back), (back, there)):  # the same draws, so each finds what the other found
        assert one["probe"]["accuracy"] == another["baselines"]["other"]["accuracy"]


def test_new_images_are_encoded_as_latents(
    vae_run: Path, tmp_path: Path, write_pictures: Callable[[Path, list[str]], Path]
) -> None:
    new = write_pictures(tmp_path / "new", [f"{i}.png" for i in range(20)])
    toolkit("encode", vae_run, "--data", new, "--out", tmp_path / "codes")
    assert open_codes(tmp_path / "codes").vectors("latents").shape == (20, 12, 1, 1)
    told = json.loads(toolkit("info", tmp_path / "codes", "--json").stdout)["codes"]
    assert told["bits_per_pixel"] == 32 * 12 / 256
    assert "usage" not in told["levels"][0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("probe.features=histogram", "nothing to count"),
        ("probe.features=cells", "probe.grid = 2 is finer"),
        ("encode.content=vectors", "a VAE has no codebook"),
    ],
)
def test_what_a_vae_cannot_have_is_refused_before_the_training(override: str, words: str, tmp_path: Path) -> None:
    error = toolkit(
        "run", "digits", "--out", tmp_path / "run", "--objective", "vae", sets=[*SETS, override], code=1
    )  # fmt: skip
    assert words in error.output
    assert not (tmp_path / "run" / "stage1").exists()
