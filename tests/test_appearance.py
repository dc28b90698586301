"""What images look like, in numbers: a skull is told from none, and what is counted is what is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit_datasets.appearance import SKULL, grey_histogram, of_picture, of_slices, outline
from toolkit_datasets.card import load_card
from toolkit_datasets.images import Decoded
from toolkit_datasets.nifti import read_header
from toolkit_datasets.slicing import planned, side_mm
from toolkit_datasets.volumes import cut


def disc(size: int, mm: float, rings: list[tuple[float, int]]) -> np.ndarray:
    """Three slices (3, size, size, 1): the grey inside each radius in mm, the widest first."""
    x = (np.arange(size) - (size - 1) / 2) * mm
    radius = np.hypot(x[:, None], x)
    picture = np.zeros((size, size), np.uint8)
    for mm_wide, grey in rings:
        picture[radius < mm_wide] = grey
    return np.repeat(picture[None, :, :, None], 3, axis=0)


BRAIN = [(70.0, 90), (66.0, 130), (60.0, 170)]
HEAD = [(84.0, 160), (79.0, 30), *BRAIN]  # scalp, skull, brain


@pytest.mark.parametrize("mm", [1.0, 1.9, 3.5])
def test_a_dark_ring_under_the_outline_is_a_skull(mm: float) -> None:
    size = int(200 / mm)
    assert outline(disc(size, mm, HEAD), mm) > 4 * SKULL
    assert outline(disc(size, mm, BRAIN), mm) < SKULL / 2


def test_where_the_outline_is_not_to_be_seen_nothing_is_said() -> None:
    assert np.isnan(outline(disc(30, 7.0, HEAD), 7.0)), "scalp and skull are one pixel"
    assert np.isnan(outline(disc(60, 1.0, HEAD), 1.0)), "the picture shows the inside only"
    assert np.isnan(outline(np.zeros((2, 16, 16, 1), np.uint8), 2.0))


def test_shares_are_of_pixels_and_greys_of_the_foreground() -> None:
    slices = np.zeros((2, 4, 4, 1), np.uint8)
    slices[0, :2] = 102  # a half of the first: 5 of the 12 border pixels... by hand: rows 0 and 1
    slices[1, 1, 1] = 204
    found = of_slices(slices, 2.0)
    assert found["foreground"] == 9 / 32
    assert found["border"] == 6 / 24
    assert found["brightness"] == pytest.approx((8 * 0.4 + 0.8) / 9)
    assert grey_histogram(slices, foreground=True).tolist() == [0] * 12 + [8] + [0] * 12 + [1] + [0] * 6
    assert grey_histogram(slices, foreground=False)[0] == 32 - 9


def test_a_picture_has_brightness_contrast_and_colour() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = (255, 0, 0)
    assert of_picture(picture) == pytest.approx({"brightness": 1 / 6, "contrast": 1 / 6, "colour": 0.5})


def test_real_skulls_and_real_brains(real_data: Path) -> None:
    """Measured over all 55 volumes at 64 px: 0.00 for every stripped brain, 0.20 and more for both IXI heads."""
    folder = real_data / "brain_t1"
    card = load_card("ixi", ["image.size=64", "slices.count=16"])

    def ring(path: Path) -> float:
        header = read_header(path)
        found = [each.pixels for each in cut(path, card, planned(card.slices, header)) if isinstance(each, Decoded)]
        return outline(np.stack(found), side_mm(card.slices, header, 64) / 64)

    brains = [*sorted((folder / "ds002748_2mm").glob("*.nii.gz"))[::9], *(folder / "ds002748_native").glob("*.nii.gz")]
    assert max(ring(path) for path in brains) < SKULL / 4
    assert min(ring(path) for path in (folder / "ixi").glob("*.nii.gz")) > 2 * SKULL
