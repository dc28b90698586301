"""What `toolkit datasets` says and draws of volumes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import phantoms
import pytest
from commands import toolkit
from PIL import Image


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten people at two sites: nine alike, one stored otherwise; a table in which two are missing."""
    folder = tmp_path_factory.mktemp("ixi")
    rows = ["IXI_ID,SEX_ID,AGE"]
    for i in range(10):
        odd = i == 9
        phantoms.save(
            folder / f"IXI{i:03d}-{'Guys' if i < 7 else 'IOP'}-0{i}00-T1.nii.gz",
            phantoms.head((40, 48, 50) if odd else (40, 48, 44), seed=i),
            spacing=(4.5, 4.5, 5.0),
            orientation=np.array([[1, -1], [2, 1], [0, 1]] if odd else [[0, 1], [1, 1], [2, 1]]),
            dtype="float32" if odd else "int16",
        )
        rows.append(f"{i},{1 + i % 2},{20 + 3.5 * i}")
    (folder / "IXI.csv").write_text("\n".join(rows[:-2]))
    return folder


SETS = ["image.size=32", "slices.count=12"]


def test_facts_of_volumes_and_people(cohort: Path) -> None:
    found = json.loads(toolkit("datasets", "ixi", "--data", cohort, "--json", sets=SETS).stdout)
    volumes = found["volumes"]
    assert volumes["shapes"] == {"40x48x44": 9, "50x40x48": 1}
    assert volumes["spacings"] == {"4.5x4.5x5": 9, "5x4.5x4.5": 1}
    assert volumes["orientations"]["RAS"] == 9
    assert volumes["types"] == {"int16": 9, "float32": 1}
    assert volumes["slices_each"] == {"12": 10}
    assert 0 < volumes["intensities"]["black"]["median"] < volumes["intensities"]["white"]["median"] < 1500
    assert found["sites"] == {"Guys": 7, "IOP": 3}
    assert found["demographics"]["SEX_ID"] == {"1": 4, "2": 4}
    assert [entry["subject"] for entry in found["exclusions"]] == ["IXI008", "IXI009"]
    text = toolkit("datasets", "ixi", "--data", cohort, sets=SETS).stdout
    for words in (
        "10 files, 10 with a readable header",
        "40x48x44 (9), 50x40x48 (1) voxels",
        "12 axial slices a volume, evenly in the whole head, at ",
        "Guys (7), IOP (3)",
        "SEX_ID: 1 (4), 2 (4)",
        "2 of 10 subjects have no label in IXI.csv: 2 with no row in IXI.csv (IXI008, IXI009)",
    ):
        assert words in text
    assert "crop" not in text, "which does not apply to volumes"


def test_ages_are_a_range(cohort: Path) -> None:
    sets = [*SETS, "labels.column=AGE", "labels.kind=continuous"]
    text = toolkit("datasets", "ixi", "--data", cohort, sets=sets).stdout
    assert "numbers from 20 to 44.5, median 32.25" in text


@pytest.mark.parametrize("slices", [["slices.axis=axial"], ["slices.axis=coronal", "slices.count=3"]])
def test_the_sheet_shows_planes_and_ends_of_the_range(slices: list[str], cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheets" / "ixi.png"
    said = toolkit("datasets", "ixi", "--data", cohort, "--sheet", out, sets=[*SETS, *slices])
    assert f"contact sheet: {out}" in said.stdout
    picture = np.asarray(Image.open(out).convert("RGB")).astype(int)
    height, width = picture.shape[:2]
    assert width == pytest.approx(8 * 1.15 * 150, abs=2)
    assert height > 0.6 * width
    orange = (picture[..., 0] > 180) & (picture[..., 1] < 130) & (picture[..., 2] < 60)
    assert orange[: height // 2].any(), "the chosen range is drawn in"
    assert not orange[2 * height // 3 :].any()


def test_the_range_is_drawn_where_the_slices_are(cohort: Path, tmp_path: Path) -> None:
    """Two slices near the bottom, two near the top: the lines move by as much as the slices do."""
    heights = []
    for start, stop in ((40.0, 60.0), (140.0, 160.0)):
        sets = ["image.size=32", "slices.by=mm", f"slices.start={start}", f"slices.stop={stop}", "slices.count=2"]
        toolkit("datasets", "ixi", "--data", cohort, "--sheet", tmp_path / "s.png", "-q", sets=sets)
        picture = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
        orange = (picture[..., 0] > 180) & (picture[..., 1] < 130) & (picture[..., 2] < 60)
        heights.append(float(np.flatnonzero(orange.any(axis=1)).mean()))
    low, high = heights
    # 220 mm of head room are drawn at most 2.8 inches high, at 150 dots per inch.
    assert low - high == pytest.approx(100 * 2.8 * 150 / 220, rel=0.05)
