"""`toolkit reconstruct`: what it writes is true, of strangers and of the run's own, of volumes and of pictures."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import phantoms
import pytest
from commands import toolkit
from PIL import Image

from stage1_vqvae.checkpoint import load_model
from stage1_vqvae.reconstruct import evaluate
from toolkit.runs import read_run
from toolkit.unseen import open_unseen
from toolkit_datasets.progress import SILENT
from toolkit_datasets.restore import restored
from toolkit_datasets.volumes import read_layout


def summary_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def test_people(head_run: Path) -> Path:
    """The run's own test people, reconstructed with the defaults."""
    shown = toolkit("reconstruct", head_run)
    assert "24 of 6 subjects, test split, unseen by stage 1" in shown.output
    assert "inside the foreground" in shown.output
    return head_run / "reconstructions" / "test"


def test_scores_by_image_by_subject_and_for_all_agree(head_run: Path, test_people: Path) -> None:
    images, people = (pd.read_csv(test_people / name) for name in ("images.csv", "subjects.csv"))
    summary = summary_of(test_people)
    assert (len(images), len(people), summary["images"], summary["subjects"]) == (24, 6, 24, 6)
    asked = open_unseen(head_run, progress=SILENT)
    loaded = load_model(head_run / "stage1")
    expected = evaluate(loaded.model, asked.prepared.images, asked.rows, batch_size=16)
    for name in ("psnr", "ssim", "mse"):
        assert images[name].mean() == pytest.approx(expected[name], rel=1e-4)
    for name in ("psnr", "ssim", "psnr_foreground", "ssim_foreground", "foreground"):
        by_hand = images.groupby("subject")[name].mean()
        assert people.set_index("subject")[name].to_dict() == pytest.approx(by_hand.to_dict(), rel=1e-4)
        score = summary["scores"][name]
        assert score["mean"] == pytest.approx(by_hand.mean(), rel=1e-4)
        assert score["sd"] == pytest.approx(by_hand.std(), rel=1e-2, abs=1e-6)
        assert by_hand.min() - 1e-6 <= score["ci95"][0] <= score["mean"] <= score["ci95"][1] <= by_hand.max() + 1e-6
    metrics = json.loads((head_run / "stage1" / "metrics.json").read_text())
    assert summary["scores"]["ssim"]["mean"] == pytest.approx(metrics["splits"]["test"]["ssim"], abs=1e-4)


def test_a_volume_comes_back_in_its_own_space_and_unit(head_run: Path, test_people: Path) -> None:
    asked = open_unseen(head_run, progress=SILENT)
    files = sorted(test_people.glob("*_reconstruction.nii.gz"))
    assert len(files) == 6
    for path in files:
        source = head_run.parent / "heads" / path.name.replace("_reconstruction", "")
        old, new = nib.load(source), nib.load(path)
        values, truth = new.get_fdata(), old.get_fdata()
        assert new.shape == old.shape
        assert np.array_equal(new.affine, old.affine)
        assert nib.aff2axcodes(new.affine) == nib.aff2axcodes(old.affine)
        taken = np.isfinite(values)
        mine = asked.samples["path"].to_numpy() == source.name
        layout = read_layout(source, asked.card, asked.samples["slice"][mine].tolist())
        originals = restored(layout.window.values(asked.prepared.images[asked.rows[mine]]), layout)
        assert (np.isfinite(originals) == taken).all()
        assert np.corrcoef(originals[taken], truth[taken])[0, 1] > 0.9
        assert np.corrcoef(values[taken], truth[taken])[0, 1] > 0.5, "a model of a few seconds"
        assert values[taken].min() >= layout.window.low - 1e-3
        assert values[taken].max() <= layout.window.high + 1e-3
        assert np.abs(values - originals)[taken].mean() < np.abs(np.roll(values, 6, 0) - originals)[taken].mean()
        said = bytes(new.header["descrip"].item()).decode()
        assert said.startswith("VQ-VAE ")
        assert said.endswith("NaN: not taken")
        assert f"{layout.window.low:.5g} to {layout.window.high:.5g}" in said


def test_the_grid_and_the_list_of_what_was_written(test_people: Path) -> None:
    with Image.open(test_people / "grid.png") as picture:
        assert picture.size[0] > picture.size[1] > 300
    listed = {*summary_of(test_people)["files"], "summary.json"}
    assert listed == {path.name for path in test_people.iterdir()}


def test_a_second_call_needs_overwrite_and_takes_away_only_its_own(head_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = phantoms.save(tmp_path / "one.nii.gz", phantoms.head(seed=50), spacing=(4.5, 4.5, 5.0))
    toolkit("reconstruct", head_run, source, "--out", out)
    (out / "notes.txt").write_text("mine")
    assert (out / "one_reconstruction.nii.gz").is_file()
    refused = toolkit("reconstruct", head_run, source, "--out", out, code=1)
    assert "--overwrite" in refused.output
    again = toolkit("reconstruct", head_run, source, "--out", out, "--overwrite", "--no-images", "--json")
    assert json.loads(again.stdout) == summary_of(out)
    assert {path.name for path in out.iterdir()} == {
        "images.csv", "subjects.csv", "summary.json", "grid.png", "notes.txt"
    }  # fmt: skip
    assert summary_of(out)["scores"]["ssim"]["ci95"] is None, "one person has no interval"
    refused = toolkit("reconstruct", head_run, source, "--out", head_run, code=1)
    assert "is a run folder" in refused.output


def test_training_images_are_marked_in_every_output(head_run: Path, tmp_path: Path) -> None:
    shown = toolkit("reconstruct", head_run, "--split", "unlabelled", "--no-images")
    out = head_run / "reconstructions" / "unlabelled"
    assert shown.output.startswith("SEEN IN TRAINING")
    assert summary_of(out)["caveat"].startswith("SEEN IN TRAINING")
    assert pd.read_csv(out / "images.csv")["seen_in_training"].all()
    learned = open_unseen(head_run, split="unlabelled", progress=SILENT)
    shutil.copy(learned.file(int(learned.rows[0])), tmp_path / "renamed.nii.gz")
    stranger = phantoms.save(tmp_path / "other.nii.gz", phantoms.head(seed=77), spacing=(4.5, 4.5, 5.0))
    mixed = toolkit("reconstruct", head_run, tmp_path / "renamed.nii.gz", stranger, "--out", tmp_path / "out")
    assert "the run learned from 4 of these 8 images" in mixed.output
    table = pd.read_csv(tmp_path / "out" / "subjects.csv").set_index("subject")["seen_in_training"]
    assert table.to_dict() == {"renamed": True, "other": False}


def stripped_and_coarse(seed: int) -> np.ndarray:
    """Someone of another cohort: half the head's width, other contrast."""
    data = phantoms.head((40, 48, 44), seed=seed)
    r, a, s = np.meshgrid(*[np.linspace(-1, 1, n) for n in data.shape], indexing="ij")
    return np.where((r / 0.45) ** 2 + (a / 0.5) ** 2 + (s / 0.6) ** 2 < 1, data**1.5, 0).astype(np.float32)


def test_another_cohort_is_told_from_the_run_s_own(head_run: Path, tmp_path: Path) -> None:
    for i in range(3):
        phantoms.save(
            tmp_path / "other" / f"p{i}.nii.gz", stripped_and_coarse(60 + i), spacing=(3.0, 3.0, 3.0), dtype="int32"
        )
        phantoms.save(tmp_path / "same" / f"p{i}.nii.gz", phantoms.head(seed=40 + i), spacing=(4.5, 4.5, 5.0))
    other = toolkit("reconstruct", head_run, "--data", tmp_path / "other", "--out", tmp_path / "a")
    summary = summary_of(tmp_path / "a")
    groups = [warning.partition(":")[0] for warning in summary["cohort"]["warnings"]]
    assert {"resolution", "field of view", "skull", "intensity"} <= set(groups)
    assert other.output.count("WARNING") == len(groups)
    assert "voxels, left to right: 3.00 mm here, 4.50 mm there" in other.output
    people = pd.read_csv(tmp_path / "a" / "subjects.csv")
    assert people["unusual"].str.contains("spacing_R").all()
    same = toolkit("reconstruct", head_run, "--data", tmp_path / "same", "--out", tmp_path / "b")
    assert "WARNING" not in same.output
    assert "nothing unusual beside the run's own 6 people" in same.output


def test_a_run_given_away_without_its_data_still_compares(head_run: Path, test_people: Path, tmp_path: Path) -> None:
    assert (test_people / "summary.json").is_file()
    shutil.copytree(head_run, tmp_path / "run", ignore=shutil.ignore_patterns("reconstructions"))
    text = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(text.replace(str(head_run.parent), str(tmp_path / "gone")))
    new = phantoms.save(tmp_path / "new.nii", phantoms.head(seed=41), spacing=(4.5, 4.5, 5.0))
    kept = toolkit("reconstruct", tmp_path / "run", new, "--out", tmp_path / "a")
    assert "nothing unusual beside the run's own 6 people" in kept.output
    (tmp_path / "run" / "stage1" / "cohort.json").unlink()
    lost = toolkit("reconstruct", tmp_path / "run", new, "--out", tmp_path / "b")
    assert "note: not compared with the run's own" in lost.output
    assert summary_of(tmp_path / "b")["cohort"] is None
    assert summary_of(tmp_path / "b")["scores"] == summary_of(tmp_path / "a")["scores"]


def test_pictures_are_subjects_of_their_own_and_come_back_as_png(digits_run: Path, tmp_path: Path) -> None:
    toolkit("reconstruct", digits_run)
    own = summary_of(digits_run / "reconstructions" / "test")
    assert (own["images"], own["subjects"], own["volumes"]) == (40, 40, False)
    assert set(own["scores"]) == {"psnr", "ssim", "mse", "mae"}, "pictures have no foreground"
    assert not list((digits_run / "reconstructions" / "test").glob("*_reconstruction.*"))
    card, _ = read_run(digits_run)
    assert card.image.size == 8
    for i in range(6):
        Image.fromarray(np.full((8, 8), 250 - i, np.uint8)).save(tmp_path / f"white-{i}.png")
    pictures = sorted(tmp_path.glob("white-*.png"))
    shown = toolkit("reconstruct", digits_run, *pictures, "--out", tmp_path / "out")
    assert "WARNING" in shown.output
    assert "intensity" in shown.output
    back = sorted((tmp_path / "out").glob("white-*_reconstruction.png"))
    back = back or sorted((tmp_path / "out").glob("*_reconstruction.png"))
    assert len(back) == 6
    assert Image.open(back[0]).size == (8, 8)


def test_new_images_need_a_place_and_empty_splits_say_what_there_is(head_run: Path, tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "new.nii", phantoms.head(seed=41))
    assert "--out" in toolkit("reconstruct", head_run, path, code=2).output
    assert "--split test" in toolkit("reconstruct", head_run, "--split", "labelled", code=1).output


def test_a_broken_scan_among_others_is_set_aside(head_run: Path, tmp_path: Path) -> None:
    good = phantoms.save(tmp_path / "good.nii.gz", phantoms.head(seed=41), spacing=(4.5, 4.5, 5.0))
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(good.read_bytes()[:-2000])
    shown = toolkit("reconstruct", head_run, good, bad, "--out", tmp_path / "out", code=3)
    assert "bad.nii.gz" in shown.output
    assert [each["path"] for each in summary_of(tmp_path / "out")["skipped"]] == ["bad.nii.gz"]
    assert (tmp_path / "out" / "good_reconstruction.nii.gz").is_file()


def test_the_commands_of_the_page_run_as_they_stand_there(
    head_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "reconstruct.md").read_text(encoding="utf-8")
    lines = page.split("```console\n")[1].partition("```")[0].splitlines()
    assert len(lines) == 4
    shutil.copytree(head_run, tmp_path / "runs" / "ixi", ignore=shutil.ignore_patterns("reconstructions"))
    for i, name in enumerate(("patient-1.nii.gz", "patient-2.nii.gz", "another-cohort/a.nii")):
        phantoms.save(tmp_path / name, phantoms.head(seed=70 + i), spacing=(4.5, 4.5, 5.0))
    monkeypatch.chdir(tmp_path)
    for line in lines:
        toolkit(*shlex.split(line.removeprefix("$ toolkit ")))
    assert Path("patients/patient-2_reconstruction.nii.gz").is_file()
    assert Path("runs/ixi/reconstructions/unlabelled/summary.json").is_file()


def test_the_script_of_the_page_writes_an_error_map(head_run: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "reconstruct.md").read_text(encoding="utf-8")
    script = page.split("```python\n")[1].partition("```")[0]
    card, _ = read_run(head_run)
    scan = phantoms.save(tmp_path / "s.nii.gz", phantoms.head(seed=1))
    maps = np.random.default_rng(0).random((3, 32, 32))
    exec(script, {"scan": scan, "card": card, "error_maps": maps, "out": tmp_path / "errors.nii.gz"})
    assert np.isfinite(nib.load(tmp_path / "errors.nii.gz").get_fdata()).any(axis=(0, 1)).sum() == 3


def test_trained_on_one_real_cohort_asked_about_another(real_data: Path, tmp_path: Path) -> None:
    """Stripped ds002748 learns; two IXI heads with their skulls on are told from it, in words and numbers."""
    brains = real_data / "brain_t1"
    sets = ["image.size=32", "slices.spacing=6.9", "slices.count=6", "train.epochs=4", "split.unlabelled=0.3"]
    sets += ["vqvae.width=8", "vqvae.codebook_size=32", "train.batch_size=16", "encode.batch_size=32"]
    toolkit("train", "ds002748", "--data", brains / "ds002748_2mm", "--out", tmp_path / "run", "--limit", 24, sets=sets)
    scans = sorted((brains / "ixi").glob("*T1.nii.gz"))
    shown = toolkit("reconstruct", tmp_path / "run", *scans, "--out", tmp_path / "out")
    groups = {warning.partition(":")[0] for warning in summary_of(tmp_path / "out")["cohort"]["warnings"]}
    assert {"resolution", "field of view", "skull", "intensity"} <= groups, shown.output
    for scan in scans:
        old = nib.load(scan)
        new = nib.load(tmp_path / "out" / f"{scan.name[: -len('.nii.gz')]}_reconstruction.nii.gz")
        values, truth = new.get_fdata(), old.get_fdata()
        taken = np.isfinite(values)
        assert new.shape == old.shape == (120, 120, 90)
        assert np.array_equal(new.affine, old.affine)
        assert 0.03 < taken.mean() < 0.1, "six slices of 120"
        assert np.corrcoef(values[taken], truth[taken])[0, 1] > 0.1, "a stranger, to a model of a few seconds"
