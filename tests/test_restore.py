"""Slices put back into their volume: the right voxels, at the right places, and nothing where nothing was taken."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantoms
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_nifti import EVERY

from toolkit_datasets.card import Card, load_card
from toolkit_datasets.images import Decoded
from toolkit_datasets.nifti import read_header, read_volume
from toolkit_datasets.restore import restored, write_nifti
from toolkit_datasets.slicing import Frame
from toolkit_datasets.volumes import Layout, cut, planned, read_layout

SHAPE = (24, 30, 28)


def card_with(size: int, **slices: Any) -> Card:
    """Every stored slice in pictures of `size` px that show the whole plane, but for what `slices` says."""
    card = load_card("ixi")
    every = {"by": "index", "count": 0, "fov": 0.0}
    return card.model_copy(
        update={
            "image": card.image.model_copy(update={"size": size}),
            "slices": card.slices.model_copy(update={**every, **slices}),
        }
    )


def there_and_back(path: Path, card: Card) -> tuple[np.ndarray, Layout]:
    """The volume at `path` cut and restored in its own unit, on its stored voxels."""
    names = planned(card.slices, read_header(path))
    results = cut(path, card, names)
    good = [(n, result.pixels) for n, result in zip(names, results, strict=True) if isinstance(result, Decoded)]
    layout = read_layout(path, card, [n for n, _ in good])
    pictures = np.stack([pixels for _, pixels in good])
    return restored(layout.window.values(pictures), layout), layout


def expected(path: Path, layout: Layout) -> np.ndarray:
    """What the window leaves of the stored voxels."""
    stored = np.asarray(nib.load(path).dataobj, np.float32)
    return stored.clip(layout.window.low, layout.window.high)


@pytest.mark.parametrize("orientation", EVERY, ids=lambda o: "".join(nib.orientations.ornt2axcodes(o)))
def test_where_nothing_is_resampled_every_voxel_comes_back(orientation: np.ndarray, tmp_path: Path) -> None:
    axis = ("sagittal", "coronal", "axial")[int(orientation[0, 0])]
    sides = dict(zip(("sagittal", "coronal", "axial"), SHAPE, strict=True))
    size = max(length for name, length in sides.items() if name != axis)
    path = phantoms.save(tmp_path / "v.nii.gz", phantoms.head(SHAPE), orientation=orientation, tilt=20.0)
    back, layout = there_and_back(path, card_with(size, axis=axis, least=1e-6))
    truth = expected(path, layout)
    taken = np.isfinite(back)
    assert back.shape == truth.shape == nib.load(path).shape
    assert taken.mean() > 0.5
    step = (layout.window.high - layout.window.low) / 255
    assert np.abs(back - truth)[taken].max() <= step / 2 + 1e-3, "only rounded to 256 grey values"
    along = int(orientation[("sagittal", "coronal", "axial").index(axis), 0])
    whole = taken.all(axis=tuple(other for other in range(3) if other != along))
    assert (taken.any(axis=tuple(other for other in range(3) if other != along)) == whole).all(), "whole slices"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    orientation=st.sampled_from(EVERY),
    spacing=st.tuples(*[st.sampled_from([0.7, 0.9375, 1.0, 1.2, 2.0])] * 3),
    axis=st.sampled_from(["sagittal", "coronal", "axial"]),
    size=st.integers(24, 80),
    centre=st.sampled_from(["volume", "head"]),
    tilt=st.floats(-30, 30),
)
def test_a_smooth_volume_comes_back_through_any_resampling(
    tmp_path: Path,
    orientation: np.ndarray,
    spacing: tuple[float, float, float],
    axis: str,
    size: int,
    centre: str,
    tilt: float,
) -> None:
    ramp = [np.linspace(0, np.pi, n) for n in SHAPE]
    r, a, s = np.meshgrid(*ramp, indexing="ij")
    smooth = (500 + 400 * np.sin(r) * np.cos(a) * np.sin(s + 0.3)).astype(np.float32)
    path = phantoms.save(
        tmp_path / "v.nii", smooth, spacing=spacing, orientation=orientation, tilt=tilt, dtype="float32"
    )
    back, layout = there_and_back(path, card_with(size, axis=axis, centre=centre, least=1e-6))
    truth = expected(path, layout)
    taken = np.isfinite(back)
    assert taken.any()
    frame, (height, width) = layout.frame, layout.sides
    coarse = max(frame.right - frame.left, frame.bottom - frame.top) / size  # voxels for each pixel
    # The steepest slope is about 400 x pi / 24 for each voxel; a pixel off by half of itself makes half of that.
    allowed = 400 * np.pi / min(height, width) * max(1.0, coarse) + (layout.window.high - layout.window.low) / 255
    assert np.abs(back - truth)[taken].mean() < allowed / 4
    assert np.quantile(np.abs(back - truth)[taken], 0.9) < allowed


@pytest.mark.parametrize("axis", ["sagittal", "coronal", "axial"])
def test_landmarks_land_where_they_were(axis: str, tmp_path: Path) -> None:
    """Bright blobs of 3 voxels in an oblique, anisotropic volume; each is found at its place in mm, to half a voxel."""
    data = phantoms.head(SHAPE).clip(0, 500)
    spots = [(8, 9, 20), (15, 20, 8), (11, 22, 18)]
    for r, a, s in spots:
        data[r - 1 : r + 2, a - 1 : a + 2, s - 1 : s + 2] = 2000
    path = phantoms.save(tmp_path / "v.nii.gz", data, spacing=(1.0, 0.8, 1.5), orientation=EVERY[13], tilt=17.0)
    back, _ = there_and_back(path, card_with(48, axis=axis, fov=40.0, clip=(0.5, 100.0)))
    write_nifti(tmp_path / "back.nii.gz", back, like=path, description="test")
    image = nib.load(tmp_path / "back.nii.gz")
    found = read_volume(tmp_path / "back.nii.gz").data
    source = read_volume(path)
    assert np.array_equal(image.affine, nib.load(path).affine)
    for r, a, s in spots:
        box = tuple(slice(at - 3, at + 4) for at in (r, a, s))
        for volume in (source.data, found):
            weights = np.nan_to_num(volume[box]).clip(1000, None) - 1000
            centre = [float((weights * index).sum() / weights.sum()) for index in np.indices(weights.shape)]
            assert centre == pytest.approx([3, 3, 3], abs=0.35)


def test_between_the_slices_taken_nothing_is_invented(tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "v.nii", phantoms.head(SHAPE), orientation=EVERY[7])
    card = card_with(30, by="head", count=6)
    back, layout = there_and_back(path, card)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(back, nib.load(path).affine)).get_fdata()
    shown = np.isfinite(canonical).all(axis=(0, 1))
    assert np.flatnonzero(shown).tolist() == [int(place.index) for place in layout.places]
    assert np.isnan(canonical[:, :, ~shown]).all()


def test_outside_the_field_of_view_nothing_is_invented(tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "v.nii", phantoms.head(SHAPE))
    back, _ = there_and_back(path, card_with(20, fov=20.0, least=1e-6))
    shown = np.isfinite(back)
    assert shown[2:22, 5:25, 14].all()
    assert not shown[:2].any()
    assert not shown[:, 25:].any()


def test_slices_interpolated_for_want_of_stored_ones_give_every_stored_one_back(tmp_path: Path) -> None:
    levels = np.linspace(300, 900, 12, dtype=np.float32)
    data = np.broadcast_to(levels, (16, 16, 12)).copy()
    data[:2] = 0
    path = phantoms.save(tmp_path / "v.nii", data, spacing=(1.0, 1.0, 4.0), dtype="float32")
    card = card_with(16, by="head", count=31, clip=(0.0, 100.0))
    back, layout = there_and_back(path, card)
    assert len({place.index for place in layout.places}) > 12
    assert np.isfinite(back).all()
    assert back[8, 8, 1:-1] == pytest.approx(levels[1:-1], abs=8), "linear in between: back to what was stored"


def test_float_maps_go_back_unrounded_and_channels_are_averaged(tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "v.nii", phantoms.head(SHAPE))
    layout = read_layout(path, card_with(30), ["10", "12"])
    errors = np.random.default_rng(0).random((2, 30, 30, 3)).astype(np.float32)
    back = restored(errors, layout)
    assert np.isfinite(back[:, :, [10, 12]]).all()
    assert np.isnan(back[:, :, 11]).all()
    upright = back[:, :, 10].T[::-1]
    assert upright == pytest.approx(errors[0, :, 3:27].mean(axis=-1), abs=1e-6)
    with pytest.raises(ValueError, match="3 pictures for 2 slices"):
        restored(np.zeros((3, 30, 30)), layout)


def test_a_frame_beside_the_slice_shows_none_of_it() -> None:
    assert np.isnan(Frame(40.0, 0.0, 50.0, 10.0).voxels(np.ones((5, 5), np.float32), 10, 10)).all()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_file_written_is_the_original_with_other_numbers(version: int, suffix: str, tmp_path: Path) -> None:
    path = phantoms.save(
        tmp_path / f"v{suffix}", phantoms.head(SHAPE), spacing=(1.0, 2.0, 3.0), slope=4.5, dtype="uint8",
        orientation=EVERY[30], version=version, tilt=10,
    )  # fmt: skip
    values = np.random.default_rng(0).normal(size=nib.load(path).shape).astype(np.float32)
    values[0] = np.nan
    write_nifti(tmp_path / f"new{suffix}", values, like=path, description="what it is " * 20)
    first = (tmp_path / f"new{suffix}").read_bytes()
    old, new = nib.load(path), nib.load(tmp_path / f"new{suffix}")
    assert np.array_equal(np.asarray(new.dataobj), values, equal_nan=True)
    assert new.get_data_dtype() == np.float32
    assert np.array_equal(old.affine, new.affine)
    assert type(old) is type(new)
    for field in ("pixdim", "qform_code", "sform_code", "srow_x", "quatern_b", "qoffset_x", "xyzt_units"):
        assert np.array_equal(old.header[field], new.header[field]), field
    assert bytes(new.header["descrip"].item()).decode() == ("what it is " * 20)[:79]
    write_nifti(tmp_path / f"new{suffix}", values, like=path, description="what it is " * 20)
    assert (tmp_path / f"new{suffix}").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([path.name, f"new{suffix}"])


def test_a_file_without_orientation_or_of_one_frame_keeps_its_shape_and_silence(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantoms.head(SHAPE)[..., None].astype(np.int16), None)
    nib.save(image, tmp_path / "v.nii")
    back, _ = there_and_back(tmp_path / "v.nii", card_with(30))
    write_nifti(tmp_path / "new.nii.gz", back, like=tmp_path / "v.nii", description="")
    new = nib.load(tmp_path / "new.nii.gz")
    assert new.shape == (*SHAPE, 1)
    assert (int(new.header["sform_code"]), int(new.header["qform_code"])) == (0, 0)
    assert gzip.decompress((tmp_path / "new.nii.gz").read_bytes())[:4] == (348).to_bytes(4, "little")
