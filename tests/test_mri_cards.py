"""The cards of brain data: published counts, layouts, and what is said of them; on made-up heads and on real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import phantoms
import pytest
from commands import toolkit
from PIL import Image

from toolkit.pipeline import check_draws
from toolkit_datasets.card import load_card
from toolkit_datasets.nifti import Header, read_header
from toolkit_datasets.prepare import prepare
from toolkit_datasets.slicing import planned

NATIVE = Header(  # of an IXI scan: 256x256x150, stored sagittally
    (150, 256, 256), (1.2, 0.9375, 0.9375), "PSR", (256, 256, 150), "int16", True, ((0.0,) * 4,)
)


@pytest.mark.parametrize(
    ("card", "volumes", "slices"), [("ixi", 581, 74_368), ("ixi", 600, 76_800), ("ixi-thesis", 581, 17_430)]
)
def test_published_counts_of_slices(card: str, volumes: int, slices: int) -> None:
    assert volumes * len(planned(load_card(card).slices, NATIVE)) == slices


def test_the_thesis_s_own_counts_hold_out_two_slices_of_everybody() -> None:
    assert (28 * 581, 2 * 581, 30 * 581) == (16_268, 1_162, 17_430)
    split = load_card("ixi-thesis").split
    assert (split.unlabelled, split.test, split.group, split.by) == (0.9, "rest", "subject", "group")


@pytest.mark.parametrize("name", ["ixi", "ixi-thesis", "ds002748", "oasis", "adni"])
def test_a_brain_card_says_where_from_under_which_licence_and_what_to_expect(name: str) -> None:
    card = load_card(name)
    assert card.source.homepage.startswith("https://")
    assert "unknown" not in card.source.licence
    assert card.image.channels == 1
    assert card.split.group == "subject"
    assert "expected" in card.description or "errors will" in card.description


def heads(folder: Path, people: int) -> list[Path]:
    return [
        phantoms.save(folder / f"{i}.nii.gz", phantoms.head(seed=i), spacing=(4.5, 4.5, 5.0)) for i in range(people)
    ]


def real_heads(real_data: Path, people: int) -> list[Path]:
    return sorted((real_data / "brain_t1" / "ds002748_2mm").glob("*.nii.gz"))[:people]


def as_slices(volumes: list[Path], folder: Path, count: int) -> np.ndarray:
    """Axial slices of volumes, (people, count, 256, 256)."""
    for volume in volumes:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(volume, folder)
    (folder / "own.toml").write_text(
        'title = "slices"\n[source]\nkind = "volumes"\n[image]\nsize = 256\nchannels = 1\n'
        f'[slices]\ncount = {count}\nstart = 0.2\nstop = 0.8\n'
    )  # fmt: skip
    images = prepare(load_card(str(folder / "own.toml")), folder, split=False).images
    return np.asarray(images[..., 0]).reshape(len(volumes), count, 256, 256)


def check_oasis(volumes: list[Path], tmp_path: Path) -> None:
    """Exported as the published folders have it: masks beside the images, 4 + 2 + 2 cases of 4 slices."""
    slices, root = as_slices(volumes, tmp_path / "v", 4), tmp_path / "oasis"
    parts = ["train"] * 4 + ["validate"] * 2 + ["test"] * 2
    for case, (part, of_case) in enumerate(zip(parts, slices, strict=True), start=1):
        for k, image in enumerate(of_case):
            for kind, stem, pixels in (("", "case", image), ("seg_", "seg", (image > 60).astype(np.uint8))):
                path = root / f"keras_png_slices_{kind}{part}" / f"{stem}_{case:03d}_slice_{k}.nii.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    found = json.loads(toolkit("datasets", "oasis", "--data", root, "--json").stdout)
    assert (found["images"], found["ignored"], found["groups"]) == (32, 32, 8)
    assert {split: sum(counts.values()) for split, counts in found["splits"].items()} == {"unlabelled": 24, "test": 8}
    prepared = prepare(load_card("oasis"), root)
    assert set(prepared.samples["group"][prepared.samples["split"] == "test"]) == {"case_007", "case_008"}
    ranges = [(image.min(), image.max()) for image in prepared.images]
    assert set(ranges) == {(0, 255)}, "each picture is normalised and rescaled"


def check_adni(volumes: list[Path], tmp_path: Path) -> None:
    """Exported as AD_NC/part/class/scan_slice.jpeg of 256x240."""
    slices, root = as_slices(volumes, tmp_path / "v", 5), tmp_path / "AD_NC"
    for i, of_scan in enumerate(slices):
        folder = root / ("test" if i >= 6 else "train") / ("AD" if i % 2 else "NC")
        folder.mkdir(parents=True, exist_ok=True)
        for k, image in enumerate(of_scan):
            Image.fromarray(image[8:248]).save(folder / f"{218391 + i}_{78 + k}.jpeg", quality=92)
    found = json.loads(toolkit("datasets", "adni", "--data", root, "--json").stdout)
    assert found["labels"] == {"AD": 20, "NC": 20}
    assert found["sizes"] == {"256x240": 40}
    assert found["groups"] == 8
    assert {split: sum(counts.values()) for split, counts in found["splits"].items()} == {
        "unlabelled": 20,
        "labelled": 10,
        "test": 10,
    }
    samples = prepare(load_card("adni"), root).samples
    assert (samples.groupby("group")["split"].nunique() == 1).all()
    assert set(samples["part"][samples["split"] == "test"]) == {"test"}
    picture = prepare(load_card("adni"), root).images[0]
    assert not picture[:3].any(), "256x240 is padded to a square, not cut"


def test_oasis_layout(tmp_path: Path) -> None:
    check_oasis(heads(tmp_path, 8), tmp_path)


def test_adni_layout(tmp_path: Path) -> None:
    check_adni(heads(tmp_path, 8), tmp_path)


def test_oasis_and_adni_layouts_of_real_slices(real_data: Path, tmp_path: Path) -> None:
    volumes = real_heads(real_data, 8)
    check_oasis(volumes, tmp_path / "o")
    check_adni(volumes, tmp_path / "a")


def test_the_two_real_ixi_scans(real_data: Path) -> None:
    """120x120x90 voxels of 2 mm stored as PSR, as the data's description states them."""
    folder = real_data / "brain_t1" / "ixi"
    found = json.loads(toolkit("datasets", "ixi", "--data", folder, "--json").stdout)
    volumes = found["volumes"]
    assert volumes["shapes"] == {"120x120x90": 2}
    assert (volumes["orientations"], volumes["types"]) == ({"PSR": 2}, {"uint8": 2})
    assert volumes["slices_each"] == {"128": 2}
    assert (found["images"], found["decoded"], found["sites"]) == (256, 256, {"HH": 2})
    assert found["splits"].keys() == {"unlabelled", "test"}
    header = read_header(folder / "IXI012-HH-1211_T1.nii.gz")
    assert header.shape == (90, 120, 120)
    thesis = prepare(load_card("ixi-thesis"), folder)
    assert thesis.samples["position"].iloc[[0, 29]].tolist() == ["150.47", "177.66"]
    assert (thesis.samples["status"] == "ok").all()


def test_real_volumes_laid_out_as_ixi_with_its_spreadsheet(real_data: Path, tmp_path: Path) -> None:
    """Copies of ds002748 under names of IXI: a left-handed storage order where IXI's is sagittal must not matter."""
    numbers = []
    for volume in real_heads(real_data, 10):
        number = int(volume.name[4:6])
        numbers.append(number)
        name = f"IXI{number:03d}-{['Guys', 'HH'][number % 2]}-{800 + number:04d}-T1.nii.gz"
        shutil.copy(volume, tmp_path / name)
    rows = [f"{i},{number},{1 + i % 2},{30 + i}" for i, number in enumerate(numbers)]
    (tmp_path / "IXI.csv").write_text("\n".join(['row,IXI_ID,"SEX_ID (1=m, 2=f)",AGE', *rows, *rows[:2]]))
    found = json.loads(toolkit("datasets", "ixi", "--data", tmp_path, "--json").stdout)
    assert found["images"] == found["decoded"] == 1280
    assert found["labels"] == {"male": 640, "female": 640}
    assert found["demographics"]["AGE"] == {"min": 30, "median": 34.5, "max": 39}
    assert found["exclusions"] == []
    ages = json.loads(
        toolkit(
            "datasets", "ixi", "--data", tmp_path, "--json", sets=["labels.column=AGE", "labels.kind=continuous"]
        ).stdout
    )
    assert ages["targets"] == {"min": 30.0, "median": 34.5, "max": 39.0}


def test_the_real_cohort_and_its_participants(real_data: Path) -> None:
    """53 volumes, 39 women and 14 men of 21 to 55 years, as the data's description states them."""
    brains = real_data / "brain_t1"
    table = brains / "ds002748_participants.tsv"
    shown = toolkit("datasets", "ds002748", "--data", brains / "ds002748_2mm", "--labels", table, "--json")
    found = json.loads(shown.stdout)
    assert found["volumes"]["shapes"] == {"144x144x90": 53}
    assert (found["volumes"]["orientations"], found["volumes"]["types"]) == ({"LAS": 53}, {"int16": 53})
    assert found["demographics"]["gender"] == {"f": 39, "m": 14}
    assert (found["demographics"]["age"]["min"], found["demographics"]["age"]["max"]) == (21, 55)
    assert found["demographics"]["group"] == {"depr": 38, "control": 15}
    assert found["images"] == found["decoded"] == 53 * 30
    assert found["subjects"] == {"unlabelled": 26, "test": 14, "labelled": 13}
    assert (found["skipped"], found["exclusions"], found["leakage"]) == ([], [], None)


def test_the_real_cohort_has_enough_people_for_the_card_s_draws(real_data: Path) -> None:
    brains = real_data / "brain_t1"
    prepared = prepare(load_card("ds002748"), brains / "ds002748_2mm", labels=brains / "ds002748_participants.tsv")
    check_draws(prepared)
    people = prepared.samples.drop_duplicates("group")["split"].value_counts().to_dict()
    assert people == {"unlabelled": 26, "labelled": 13, "test": 14}


def test_a_scan_at_another_resolution_gives_the_same_pictures(real_data: Path) -> None:
    """sub-02 and sub-15 are there as published (0.87 mm, float32) and halved (1.74 mm, int16)."""
    brains = real_data / "brain_t1"
    sets = ["slices.by=mm", "slices.start=60", "slices.stop=140", "slices.count=20"]
    card = load_card("ds002748", sets)
    native = prepare(card, brains / "ds002748_native", split=False)
    halved = prepare(card, brains / "ds002748_2mm", split=False)
    assert set(native.samples["group"]) == {"sub-02", "sub-15"}
    rows = np.flatnonzero(halved.samples["group"].isin(["sub-02", "sub-15"]))
    assert len(rows) == 40
    for one, other in zip(native.images, halved.images[rows], strict=True):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.98
