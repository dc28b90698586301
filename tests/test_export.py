"""Images for other tools: whole or absent, traceable, and never in the place of something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import phantoms
import pytest
from commands import toolkit
from PIL import Image

from toolkit_datasets import export as exports
from toolkit_datasets.card import load_card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.export import export
from toolkit_datasets.prepare import Prepared, prepare

Write = Callable[[Path, list[str]], Path]


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Six people with a sex each, six slices of each; one slice of one of them is empty."""
    root = tmp_path / "data"
    for i in range(6):
        phantoms.save(root / f"IXI{i:03d}-Guys-0{i}00-T1.nii.gz", phantoms.head(seed=i), spacing=(4.5, 4.5, 5.0))
    (root / "IXI.csv").write_text("IXI_ID,SEX_ID\n0,1\n1,2\n2,1\n3,2\n4,1\n")
    sizes = ["split.unlabelled=2", "split.labelled=2", "slices.by=index", "slices.start=4", "slices.stop=10"]
    return prepare(load_card("ixi", [*sizes, "slices.count=0", "image.size=32"]), root)


def test_png_folders_hold_the_decoded_images_under_readable_names(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = export(prepared, out, format="png")
    good = prepared.samples[prepared.samples["status"] == "ok"]
    assert 0 < len(good) < 36
    assert len(manifest) == len(list(out.rglob("*.png"))) == len(good)
    name = r"(unlabelled|labelled|test)/((fe)?male/)?\d{1,3}_s\d{3}(_(fe)?male)?\.png"
    assert manifest["file"].str.fullmatch(name).all()
    for row, file in zip(good.index, manifest["file"], strict=True):
        assert (np.asarray(Image.open(out / file)) == prepared.images[row, :, :, 0]).all()
    written = pd.read_csv(out / "manifest.csv", dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(written, manifest.astype(str), check_dtype=False)
    everything = pd.read_csv(out / "samples.csv", dtype=str, keep_default_na=False)
    assert everything["status"].str.startswith("empty slice").sum() == 36 - len(good)
    assert load_card(str(out / "card.toml")) == prepared.card


def test_hdf5_holds_the_same(prepared: Prepared, tmp_path: Path) -> None:
    manifest = export(prepared, tmp_path / "x.h5", format="h5")
    with h5py.File(tmp_path / "x.h5") as file:
        rows = np.flatnonzero(prepared.samples["status"] == "ok")
        assert (file["images"][:] == prepared.images[rows]).all()
        for column in exports.COLUMNS:
            assert file[column].asstr()[:].tolist() == manifest[column].tolist()
    assert [path.name for path in tmp_path.glob("*x.h5*")] == ["x.h5"]


def test_an_interrupted_export_is_absent_and_goes_on(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, saved = tmp_path / "out", Image.Image.save
    count = 0

    def stops(self: Image.Image, *arguments: object, **options: object) -> None:
        nonlocal count
        count += 1
        if count > 10:
            raise KeyboardInterrupt
        saved(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "save", stops)
    monkeypatch.setattr(exports, "BLOCK", 4)
    with pytest.raises(KeyboardInterrupt):
        export(prepared, out, format="png")
    assert not out.exists()
    kept = list((tmp_path / "out.partial").rglob("*.png"))
    assert 8 <= len(kept) <= 10
    times = {path.name: path.stat().st_mtime_ns for path in kept}
    monkeypatch.setattr(Image.Image, "save", saved)
    export(prepared, out, format="png")
    assert {name: next(out.rglob(name)).stat().st_mtime_ns for name in times} == times, "what was there is kept"
    assert not (tmp_path / "out.partial").exists()
    assert not list(out.rglob("*.partial"))


def test_nothing_else_is_ever_overwritten(prepared: Prepared, tmp_path: Path) -> None:
    for form, name in (("png", "out"), ("h5", "out.h5")):
        export(prepared, tmp_path / name, format=form)  # type: ignore[arg-type]
        with pytest.raises(ToolkitError, match="already holds an export: give --overwrite"):
            export(prepared, tmp_path / name, format=form)  # type: ignore[arg-type]
        export(prepared, tmp_path / name, format=form, overwrite=True)  # type: ignore[arg-type]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    (tmp_path / "notes.h5").write_text("x")
    for form, path in (("png", mine), ("h5", tmp_path / "notes.h5")):
        with pytest.raises(ToolkitError, match="no export of images"):
            export(prepared, path, format=form, overwrite=True)  # type: ignore[arg-type]
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(ToolkitError, match="in the way"):
        export(prepared, tmp_path / "new", format="png")


def test_prepare_writes_pictures_too_and_says_where(tmp_path: Path, write_pictures: Write) -> None:
    data = write_pictures(tmp_path / "d", [f"{label}/{i}.png" for i in range(6) for label in "ab"])
    said = toolkit("prepare", "folder", "--data", data, "--out", tmp_path / "out", "--format", "png")
    assert "12 images written, such as" in said.stdout
    assert len(list((tmp_path / "out").glob("*/[ab]/*.png"))) == 12
    again = toolkit("prepare", "folder", "--data", data, "--out", tmp_path / "out", "--format", "png", code=1)
    assert "--overwrite" in again.output
    assert "--format needs --out" in toolkit("prepare", "folder", "--data", data, "--format", "h5", code=2).output
    whole = toolkit("prepare", "folder", "--data", data, "--out", tmp_path / "x.h5", "--format", "h5")
    assert "12 images written, all in" in whole.stdout
