"""Reading NIfTI: every orientation and type gives the same volume, and what cannot be had says why."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import phantoms
import pytest

from toolkit_datasets import nifti
from toolkit_datasets.images import Unreadable
from toolkit_datasets.nifti import read_header, read_volume

SHAPE, SPACING = (6, 8, 10), (1.5, 2.0, 0.75)
EVERY = [
    np.array(list(zip(axes, signs, strict=True)))
    for axes in itertools.permutations(range(3))
    for signs in itertools.product([1, -1], repeat=3)
]


def small() -> np.ndarray:
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("orientation", EVERY, ids=lambda o: "".join(nib.orientations.ornt2axcodes(o)))
def test_all_48_orientations_give_the_same_volume(orientation: np.ndarray, tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "v.nii", small(), spacing=SPACING, orientation=orientation)
    volume = read_volume(path)
    assert (volume.data == small()).all()
    assert volume.header.shape == SHAPE
    assert volume.header.spacing == pytest.approx(SPACING)
    assert volume.header == read_header(path)
    assert volume.header.orientation == "".join(nib.aff2axcodes(nib.load(path).affine))


@pytest.mark.parametrize("tilt", [-40.0, 12.0, 40.0])
def test_an_oblique_volume_is_reordered_but_not_resampled(tilt: float, tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "v.nii.gz", small(), spacing=SPACING, orientation=EVERY[19], tilt=tilt)
    volume = read_volume(path)
    assert (volume.data == small()).all()
    assert volume.header.spacing == pytest.approx(SPACING, rel=1e-5)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", ">i2", "uint16", "int32", "uint32", "int64", "float32"])
@pytest.mark.parametrize("version", [1, 2])
def test_every_type_of_number(dtype: str, version: int, tmp_path: Path) -> None:
    data = small() % 100
    volume = read_volume(phantoms.save(tmp_path / "v.nii.gz", data, dtype=dtype, version=version))
    assert volume.data.dtype == np.float32
    assert (volume.data == data).all()
    assert volume.header.dtype == np.dtype(dtype).newbyteorder("=").name


def test_floats_beyond_single_precision_and_scale_slopes(tmp_path: Path) -> None:
    data = small().astype(np.float64)
    data[0, 0, 0] = 1e39
    volume = read_volume(phantoms.save(tmp_path / "d.nii", data, dtype="float64"))
    assert np.isinf(volume.data[0, 0, 0])
    assert (volume.data[1:] == data[1:]).all()
    sloped = read_volume(phantoms.save(tmp_path / "s.nii", small(), dtype="uint8", slope=13.895))
    assert np.abs(sloped.data - small()).max() <= 13.895 / 2 + 1e-3


def test_one_frame_of_a_fourth_dimension_and_a_single_slice(tmp_path: Path) -> None:
    assert (read_volume(phantoms.save(tmp_path / "v.nii", small()[..., None])).data == small()).all()
    flat = nib.Nifti1Image(small()[:, :, 0], np.eye(4))
    nib.save(flat, tmp_path / "flat.nii")
    assert read_volume(tmp_path / "flat.nii").data.shape == (6, 8, 1)


def test_a_file_that_does_not_say_where_it_lies_is_taken_as_las_and_says_so(tmp_path: Path) -> None:
    image = nib.Nifti1Image(small().astype(np.int16), None)
    nib.save(image, tmp_path / "v.nii")
    header = read_header(tmp_path / "v.nii")
    assert (header.orientation, header.placed) == ("LAS", False)
    assert (read_volume(tmp_path / "v.nii").data == small()[::-1]).all()


def test_other_units_of_length_become_millimetres(tmp_path: Path) -> None:
    image = nib.Nifti1Image(small(), np.diag([1500.0, 2000.0, 750.0, 1.0]))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "mouse.nii")
    assert read_header(tmp_path / "mouse.nii").spacing == pytest.approx(SPACING)


def _shortened(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _colours(path: Path) -> None:
    pixels = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), path)


def _header_field(name: str, value: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        image = nib.Nifti1Image(small(), np.eye(4))
        header = image.header.copy()
        header[name] = value
        path.write_bytes(header.binaryblock + bytes(4) + small().tobytes())

    return change


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("empty.nii.gz", lambda path: path.write_bytes(b""), ["the file is empty"]),
        ("text.nii", lambda path: path.write_text("x" * 600), ["not a NIfTI file"]),
        ("text.nii.gz", lambda path: path.write_text("x" * 600), ["not gzip-compressed", "nor a NIfTI file"]),
        ("zip.nii", lambda path: path.write_bytes(gzip.compress(bytes(600))), ["gzip-compressed", "zip.nii.gz"]),
        ("zeros.nii.gz", lambda path: path.write_bytes(gzip.compress(bytes(600))), ["not a NIfTI file"]),
        ("short.nii", lambda path: path.write_bytes((348).to_bytes(4, "little")), ["truncated", "of a header"]),
        ("cut.nii.gz", lambda path: _shortened(path, 0.7), ["truncated"]),
        ("cut.nii", lambda path: _shortened(path, 0.7), ["truncated", "bytes that its header announces"]),
        ("flip.nii.gz", _flipped, ["damaged"]),
        ("colour.nii", _colours, ["colours"]),
        ("complex.nii", lambda p: phantoms.save(p, small(), dtype="complex64"), ["complex"]),
        ("film.nii", lambda p: phantoms.save(p, np.stack([small()] * 3, -1)), ["3 frames", "6x8x10x3"]),
        ("huge.nii", _header_field("dim", [3, 30000, 30000, 30000, 1, 1, 1, 1]), ["claims", "refused"]),
        ("pair.nii", _header_field("magic", b"ni1"), [".hdr/.img"]),
        ("none.nii", _header_field("dim", [3, 6, 0, 10, 1, 1, 1, 1]), ["no voxels"]),
        ("flat.nii", _header_field("srow_x", [0, 0, 0, 0]), ["affine"]),
        ("missing.nii", lambda path: path.unlink(), ["cannot be read"]),
    ],
)  # fmt: skip
def test_what_cannot_be_had_says_why(
    name: str, spoil: Callable[[Path], object], words: list[str], tmp_path: Path
) -> None:
    path = phantoms.save(tmp_path / name, np.random.default_rng(0).integers(0, 999, (20, 20, 20)))
    spoil(path)
    with pytest.raises(Unreadable) as error:
        read_volume(path)
    for word in words:
        assert word in str(error.value)


def test_a_plain_volume_named_gz_says_how_to_rename_it(tmp_path: Path) -> None:
    path = phantoms.save(tmp_path / "v.nii", small())
    path.rename(tmp_path / "v.nii.gz")
    for read in (read_volume, read_header):
        with pytest.raises(Unreadable, match=r"plain NIfTI file: rename it to v\.nii$"):
            read(tmp_path / "v.nii.gz")


def test_a_header_costs_no_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = phantoms.save(tmp_path / "v.nii.gz", small())
    _shortened(path, 0.95)  # whatever comes after the header may be missing
    assert read_header(path).shape == SHAPE
    monkeypatch.setattr(nifti, "MAX_VOXELS", 10)
    with pytest.raises(Unreadable, match="refused"):
        read_header(path)
