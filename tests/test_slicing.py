"""Which slices are taken, where they lie, and how they become pictures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit_datasets.card import load_card
from toolkit_datasets.card_data import Slices
from toolkit_datasets.errors import ToolkitError
from toolkit_datasets.nifti import Header
from toolkit_datasets.slicing import IN_PLANE, SIDES, ends, extent, frame_of, located, plane, planned


def header(shape: tuple[int, int, int] = (40, 48, 44), spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Header:
    return Header(shape, spacing, "RAS", shape, "int16", True, ((1.0, 0.0, 0.0, 0.0),))


def indices(wanted: Slices, of: Header, head: tuple[int, int] = (0, 44)) -> list[float]:
    return [place.index for place in located(wanted, of, head, planned(wanted, of))]


def test_the_thesis_slices_are_the_stored_ones_160_to_189_of_a_native_ixi_scan() -> None:
    """256 slices at 0.9375 mm: 160 x 0.9375 = 150 mm, 190 x 0.9375 = 178.125 mm."""
    wanted = load_card("ixi-thesis").slices
    native = header((150, 256, 256), (1.2, 0.9375, 0.9375))
    assert indices(wanted, native) == list(range(160, 190))
    assert located(wanted, native, (0, 0), ["0"])[0].mm == pytest.approx(150.46875)
    coarse = header((90, 120, 120), (2.0, 2.0, 2.0))
    between = indices(wanted, coarse)
    assert len(set(between)) == 30
    assert (between[0], between[-1]) == (pytest.approx(150.46875 / 2 - 0.5), pytest.approx(177.65625 / 2 - 0.5))


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        (Slices(by="index", start=10, stop=14, count=0), [10, 11, 12, 13]),
        (Slices(by="index", start=-2, count=0), [42, 43]),
        (Slices(by="index", start=40, stop=99, count=0), [40, 41, 42, 43]),
        (Slices(by="index", start=10, stop=14, count=2), [11, 13]),
        (Slices(by="fraction", start=0.25, stop=0.5, count=0), list(range(11, 22))),
        (Slices(by="mm", start=3.0, stop=5.0, count=0), [3, 4]),
        (Slices(by="mm", start=42.0, count=0), [42, 43]),
        (Slices(by="head", count=4), [12, 17, 22, 27]),
        (Slices(by="head", start=0.5, stop=1.0, count=2), [22, 27]),
        (Slices(axis="sagittal", by="index", start=38, count=0), [38, 39]),
        (Slices(axis="coronal", by="fraction", start=0.5, stop=1.0, count=1), [36]),
    ],
)
def test_golden_positions(slices: Slices, expected: list[int]) -> None:
    """By hand: 44 axial, 48 coronal and 40 sagittal slices of 1 mm; the head fills the axial slices [10, 30)."""
    assert indices(slices, header(), (10, 30)) == expected


@given(
    n=st.integers(1, 60),
    spacing=st.floats(0.3, 4.0),
    count=st.integers(1, 90),
    head=st.tuples(st.integers(0, 59), st.integers(1, 60)),
)
def test_any_count_gives_distinct_ascending_positions_inside_the_head(
    n: int, spacing: float, count: int, head: tuple[int, int]
) -> None:
    low, high = sorted((min(head[0], n - 1), min(head[1], n)))
    high = max(high, low + 1)
    places = indices(Slices(count=count), header((5, 5, n), (1, 1, spacing)), (low, high))
    assert len(places) == count
    inner = [place for place in places if 0 < place < n - 1]
    assert (np.diff(inner) > 0).all()
    assert (np.diff(places) >= 0).all()
    assert all(low - 0.5 <= place <= high - 0.5 and 0 <= place <= n - 1 for place in places)


def test_a_range_ends_where_its_last_slice_ends() -> None:
    assert ends(Slices(by="index", start=10, stop=14, count=0), header(spacing=(1, 1, 2.0)), (0, 0)) == (20, 28)
    assert ends(Slices(by="head", start=0.5, stop=1.0, count=3), header(), (10, 30)) == (20, 30)


def test_pictures_have_right_front_and_top_at_the_right_and_at_the_top() -> None:
    data = np.zeros((5, 6, 7), np.float32)
    data[4, 5, 6] = 1  # the right front top corner
    corners = {axis: plane(data, axis, {"sagittal": 4, "coronal": 5, "axial": 6}[axis]) for axis in SIDES}
    assert {axis: cut.shape for axis, cut in corners.items()} == {
        "sagittal": (7, 6),
        "coronal": (7, 5),
        "axial": (6, 5),
    }
    for cut in corners.values():
        assert cut[0, -1] == 1
        assert cut.sum() == 1
    assert SIDES["axial"] == ("L", "R", "P", "A")
    assert SIDES["sagittal"][:2] == ("P", "A")
    assert SIDES["coronal"][2:] == ("I", "S")


def test_between_two_slices_values_are_linear() -> None:
    data = np.broadcast_to(np.arange(7, dtype=np.float32), (5, 6, 7))
    assert plane(data, "axial", 2.25) == pytest.approx(np.full((6, 5), 2.25))


@pytest.mark.parametrize("axis", IN_PLANE)
def test_a_ball_is_round_in_every_plane_whatever_the_voxels(axis: str) -> None:
    """A ball of 30 mm in voxels of 1 x 2 x 3 mm is a disc of 15 px across at 2 mm a pixel, in the middle."""
    shape, spacing = (60, 30, 20), (1.0, 2.0, 3.0)
    at = [np.arange(n) * s + s / 2 - n * s / 2 for n, s in zip(shape, spacing, strict=True)]
    ball = (at[0][:, None, None] ** 2 + at[1][:, None] ** 2 + at[2] ** 2 < 15**2).astype(np.float32) * 255
    of = header(shape, spacing)
    wanted = Slices(axis=axis, fov=64.0)
    middle = {"sagittal": 29.5, "coronal": 14.5, "axial": 9.5}[axis]
    picture = frame_of(wanted, of, ball > 0, 32).picture(plane(ball, axis, middle), 32)
    inside = picture > 127
    height, width = (np.flatnonzero(inside.any(axis=other)) for other in (1, 0))
    assert 14 <= len(height) <= 16
    assert 14 <= len(width) <= 16
    assert inside.sum() == pytest.approx(np.pi * 7.5**2, rel=0.12)
    rows, columns = np.nonzero(inside)
    assert (rows.mean(), columns.mean()) == (pytest.approx(15.5, abs=0.6), pytest.approx(15.5, abs=0.6))


def test_the_field_of_view_crops_pads_and_follows_the_head() -> None:
    of = header((8, 8, 8))
    data = np.zeros((8, 8, 8), np.float32)
    data[5:7, 1:3] = 255  # right of the middle, behind the middle
    cut = plane(data, "axial", 4)
    everything = frame_of(Slices(), of, data > 0, 8).picture(cut, 8)
    assert (everything == cut).all()
    wide = frame_of(Slices(fov=16.0), of, data > 0, 16).picture(cut, 16)
    assert (wide[4:12, 4:12] == cut).all()
    assert wide.sum() == cut.sum()
    close = frame_of(Slices(fov=4.0, centre="head"), of, data > 0, 4).picture(cut, 4)
    assert (close == np.pad(np.full((2, 2), 255), 1)).all()
    sized = frame_of(Slices(spacing=0.5), of, data > 0, 8).picture(cut, 8)
    assert (sized == frame_of(Slices(fov=4.0), of, data > 0, 8).picture(cut, 8)).all()


def test_the_head_begins_and_ends_where_enough_of_a_slice_shows_it() -> None:
    foreground = np.zeros((10, 10, 10), bool)
    foreground[:, :, 3:7] = True
    foreground[0, 0, 9] = True  # a speck: 1 % of its slice
    assert extent(foreground, 2, 0.02) == (3, 7)
    assert extent(foreground, 2, 0.01) == (3, 10)
    assert extent(np.zeros((2, 2, 2), bool), 0, 0.01) == (0, 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["slices.by=index", "slices.start=1.5"], ["whole numbers", "1.5"]),
        (["slices.by=fraction", "slices.stop=30"], ["shares from 0 to 1", "30"]),
        (["slices.count=0"], ["slices.count", "head"]),
        (["slices.by=index", "slices.start=9", "slices.stop=9"], ["below slices.stop = 9"]),
        (["slices.fov=200", "slices.spacing=1"], ["fov", "spacing", "0"]),
        (["slices.clip=[99, 1]"], ["percentiles"]),
        (["slices.axis=oblique"], ["axial", "coronal", "sagittal"]),
    ],
)
def test_a_wrong_choice_says_what_is_possible(overrides: list[str], words: list[str]) -> None:
    plain = ["slices.fov=0", "slices.spacing=0", "slices.start=0", "slices.stop=1"]
    with pytest.raises(ToolkitError) as error:
        load_card("ds002748", [*plain, *overrides])
    for word in words:
        assert word in str(error.value)
