"""Masks lie on the pixels of their images, whatever the orientation, and are found by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import phantoms
import pytest
from PIL import Image

from toolkit.layouts import Layouts
from toolkit.masks import Masks, picture_mask, volume_mask
from toolkit_datasets.card import Card, card_from, load_card
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.images import Decoded, decode_file
from toolkit_datasets.lesions import draw_lesion, put
from toolkit_datasets.prepare import Prepared, prepare
from toolkit_datasets.volumes import cut, read_layout

SPACING = (4.0, 3.0, 3.5)


def card(**slices: object) -> Card:
    plain = {"source": {"kind": "volumes"}, "image": {"size": 40, "channels": 1}, "slices": {"count": 8, **slices}}
    return card_from({"title": "made up", "name": "made-up", "vqvae": {"stride": 8}, **plain}, origin="test")


@pytest.mark.parametrize(
    ("orientation", "slices"),
    [
        ([[0, 1], [1, 1], [2, 1]], {}),
        ([[1, -1], [2, 1], [0, 1]], {"axis": "sagittal", "spacing": 4.0}),
        ([[2, -1], [0, -1], [1, 1]], {"axis": "coronal", "centre": "head", "fov": 160.0}),
    ],
)
def test_a_mask_covers_what_the_lesion_changed(
    orientation: list[list[int]], slices: dict[str, object], tmp_path: Path
) -> None:
    """Half of the contrast is the border of both: what a picture gained, and where its mask is."""
    data, chosen = phantoms.head(), card(**slices)
    where = np.array(orientation)
    lesion = draw_lesion(np.random.default_rng(1), data > 100, SPACING, radius=24, contrast=0.2)
    added, mask = put(data, SPACING, lesion, black_to_white=1000)
    plain, ill = (
        phantoms.save(tmp_path / f"{name}.nii.gz", array, spacing=SPACING, orientation=where)
        for name, array in (("plain", data), ("ill", added))
    )
    drawn = phantoms.save(
        tmp_path / "mask.nii.gz", 3 * mask.astype(np.float32), spacing=SPACING, orientation=where, dtype="uint8"
    )
    names = [str(number) for number in range(8)]
    layout = read_layout(plain, chosen, names)
    found = volume_mask(drawn, layout, chosen)
    assert found.any(axis=(1, 2)).sum() >= 2
    pictures = [cut(path, chosen, names) for path in (plain, ill)]
    for number in range(8):
        before, after = (each[number] for each in pictures)
        assert isinstance(before, Decoded)
        assert isinstance(after, Decoded)
        gain = after.pixels[..., 0].astype(int) - before.pixels[..., 0]
        gained = gain > 0.5 * 0.2 * 1000 * 255 / (layout.window.high - layout.window.low)
        assert (gained ^ found[number]).sum() <= 0.25 * found[number].sum() + 4, number


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    original = phantoms.save(tmp_path / "a.nii.gz", phantoms.head(), spacing=SPACING)
    layout = read_layout(original, card(), ["0", "1", "2", "3", "4", "5", "6", "7"])
    samples = prepare(card(), tmp_path, split=False)
    for name, changed in {
        "smaller": {"data": phantoms.head((40, 48, 43)), "spacing": SPACING},
        "wider": {"data": phantoms.head(), "spacing": (4.0, 3.0, 3.6)},
    }.items():
        folder = tmp_path.parent / f"{tmp_path.name}-{name}"
        phantoms.save(folder / "a.nii.gz", **changed)  # type: ignore[arg-type]
        masks = Masks(folder, samples, samples.rows("new"), Layouts(samples))
        with pytest.raises(ToolkitError, match=r"a\.nii\.gz does not lie on its volume's voxels"):
            masks.of(samples.rows("new"))
    assert len(layout.places) == 8


def pictures(tmp_path: Path, names: list[str]) -> Prepared:
    rng = np.random.default_rng(0)
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(tmp_path / name)
    return prepare(load_card("folder", ["image.size=32"]), tmp_path, split=False)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_picture_s_mask_is_fitted_as_the_picture_is(fit: str, tmp_path: Path) -> None:
    drawn = np.zeros((60, 90), np.uint8)
    drawn[20:40, 25:55] = 1
    Image.fromarray(drawn).save(tmp_path / "mask.png")
    Image.fromarray(np.repeat(255 * drawn[..., None], 3, -1)).save(tmp_path / "image.png")
    chosen = load_card("folder", ["image.size=32", f"image.fit={fit}"])
    picture = decode_file(tmp_path / "image.png", chosen.image).pixels.mean(-1)
    assert ((picture > 127) == picture_mask(tmp_path / "mask.png", chosen)).all()


def test_masks_are_found_by_path_then_by_name_and_none_means_healthy(tmp_path: Path) -> None:
    prepared = pictures(tmp_path / "images", ["a/1.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg"])
    rows = prepared.rows("new")
    for name in ("a/1.png", "b/1.png", "elsewhere/2.png"):
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros((60, 90), np.uint8)
        array[:, 40 if name == "a/1.png" else 30 :] = 255
        Image.fromarray(array).save(tmp_path / "masks" / name)
    masks = Masks(tmp_path / "masks", prepared, rows, None)
    assert (masks.files, masks.missing) == (4, 1)
    found = masks.of(rows)
    shares = pd.Series(found.mean(axis=(1, 2)), index=prepared.samples["path"])
    assert shares["c/3.jpg"] == 0
    assert 0 < shares["a/1.jpg"] < shares["b/1.jpg"] == shares["b/2.jpg"] < 1


def test_ambiguous_missing_and_foreign_masks_say_so(tmp_path: Path) -> None:
    prepared = pictures(tmp_path / "images", ["1.jpg"])
    rows = prepared.rows("new")
    with pytest.raises(ToolkitError, match=r"no folder .*--masks"):
        Masks(tmp_path / "none", prepared, rows, None)
    pictures(tmp_path / "others", ["9.png"])
    with pytest.raises(ToolkitError, match=r"named as an image is, such as 1\..*9\.png"):
        Masks(tmp_path / "others", prepared, rows, None)
    pictures(tmp_path / "two", ["x/1.png", "y/1.png"])
    with pytest.raises(ToolkitError, match="may have the mask"):
        Masks(tmp_path / "two", prepared, rows, None)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ToolkitError, match=r"the mask .*1\.png "):
        Masks(tmp_path / "broken", prepared, rows, None).of(rows)
