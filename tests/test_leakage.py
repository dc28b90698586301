"""Why slices of one person must not lie on both sides: random labels can be "predicted" as soon as they do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import phantoms
import pytest
from commands import toolkit

from stage2_probe.baselines import of_array
from stage2_probe.classifiers import create
from stage2_probe.draws import plan
from stage2_probe.evaluate import evaluate
from stage2_probe.task import task_of
from toolkit_datasets.card import load_card
from toolkit_datasets.prepare import Prepared, prepare
from toolkit_datasets.progress import SILENT
from toolkit_datasets.splits import leakage

LEAKY = ["split.by=sample", "split.allow_leakage=true"]
REPEATS = 4  # random labellings


def accuracy(prepared: Prepared, *, seed: int, by_subject: bool) -> float:
    """Accuracy of nearest neighbours on raw pixels at 16x16, where every subject's label was drawn by lot.

    Without `by_subject` nothing knows of subjects, cross-validation included, as where slices are taken for samples.
    """
    rng = np.random.default_rng(seed)
    samples = prepared.samples
    people = sorted(set(samples["group"]))
    label_of = dict(zip(people, rng.permutation(np.arange(len(people)) % 2), strict=True))
    manifest = samples.assign(label=[f"class {label_of[group]}" for group in samples["group"]])
    if not by_subject:
        manifest["group"] = ""
    side = prepared.images.shape[1] // 16
    images = prepared.images[..., 0].reshape(len(samples), 16, side, 16, side).mean((2, 4))
    pixels = images.reshape(len(samples), -1).astype(np.float32) / 255
    task = task_of(manifest, "class")
    units = np.unique(task.pool_units, return_index=True)[1]
    n = 2 * int(np.bincount(task.pool_y[units], minlength=2).min())
    draws = plan(task, labels=n, draws=2, curve=(), seed=0)
    with SILENT.bar("", 0, "") as bar:
        found = evaluate(
            [of_array(pixels, "pixels")],
            task,
            draws,
            lambda: create("knn", n_classes=2),
            seed=0,
            keep_answers=None,
            bar=bar,
        )[n]
    return float((found.predicted == task.test_y).mean())


def both(folder: Path, card: str, sets: list[str]) -> tuple[float, float]:
    """Mean accuracy with the honest split and with the leaky one."""
    scores = []
    for more in ([], LEAKY):
        prepared = prepare(load_card(card, [*sets, *more]), folder)
        assert (leakage(prepared.samples) is None) == (not more)
        scores.append(float(np.mean([accuracy(prepared, seed=s, by_subject=not more) for s in range(REPEATS)])))
    return scores[0], scores[1]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty people, each with a pattern of their own, and a label for each that means nothing."""
    folder = tmp_path_factory.mktemp("cohort")
    rows = ["participant_id,gender"]
    for i in range(30):
        phantoms.save(folder / f"sub-{i:02d}_T1w.nii.gz", phantoms.head((24, 28, 24), seed=i), spacing=(8.0, 7.5, 7.0))
        rows.append(f"sub-{i:02d},{'mf'[i % 2]}")
    (folder / "table.csv").write_text("\n".join(rows))
    return folder


SIZES = ["split.unlabelled=0.1", "split.labelled=0.45", "split.test=rest", "image.size=32", "slices.count=12"]


def test_random_labels_are_at_chance_by_subject_and_above_it_by_slice(cohort: Path) -> None:
    sets = [*SIZES, f"labels.table={cohort}/table.csv", "slices.spacing=0", "slices.start=0.3", "slices.stop=0.7"]
    honest, leaky = both(cohort, "ds002748", sets)
    assert 0.35 < honest < 0.65
    assert leaky > honest + 0.2
    assert leaky > 0.8


def test_random_labels_on_the_real_cohort(real_data: Path) -> None:
    """53 people: the honest score has a wide interval around a half, the leaky one is far above it."""
    brains = real_data / "brain_t1"
    table = f"labels.table={brains}/ds002748_participants.tsv"
    sets = [*SIZES, table, "slices.spacing=0", "slices.fov=190", "slices.centre=head", "slices.count=40"]
    honest, leaky = both(brains / "ds002748_2mm", "ds002748", sets)
    assert 0.35 < honest < 0.65
    assert leaky > honest + 0.2


def test_a_leaking_run_says_so_first_everywhere(cohort: Path, tmp_path: Path) -> None:
    small = ["image.size=32", "slices.count=4", "train.epochs=1", "probe.draws=2", "vqvae.width=8", "encode.format=npy"]
    small += ["probe.labels=6", "split.by=sample", "slices.spacing=0", "probe.baselines=[]", "vqvae.codebook_size=16"]
    words = ("run", "ds002748", "--data", cohort, "--labels", cohort / "table.csv", "--out", tmp_path / "run")
    refused = toolkit(*words, sets=small, code=1)
    assert "--allow-leakage" in refused.output
    assert not (tmp_path / "run").exists()
    said = toolkit(*words, "--allow-leakage", sets=small)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert next(iter(results)) == "leakage"
    assert results["leakage"]["groups"] > 0
    assert json.loads((tmp_path / "run" / "probe" / "results.json").read_text())["leakage"] == results["leakage"]
    assert any(line.startswith("LEAKAGE: ") for line in said.stdout.splitlines())
    page = (tmp_path / "run" / "report.html").read_text()
    assert 0 < page.index("LEAKAGE: ") < page.index("<h1")
    probed = toolkit("probe", tmp_path / "run" / "codes", "--out", tmp_path / "again")
    assert probed.stdout.startswith("LEAKAGE: ")
    shown = toolkit("datasets", "ds002748", "--data", cohort, "--allow-leakage", sets=small)
    assert shown.stdout.startswith("LEAKAGE: ")
    assert "allow_leakage = true" in (tmp_path / "run" / "card.toml").read_text()
