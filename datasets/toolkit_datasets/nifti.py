"""One NIfTI file in, one volume of floats in a known orientation out.

Whatever the file holds (any axes, an oblique affine, integers or floats, scale slopes, one frame of a fourth
dimension), the result is float32 with the axes of the closest canonical orientation, RAS+: the first index grows to
the patient's right, the second to the front, the third upwards. Voxels are only re-ordered for that, never
resampled. What cannot be had raises `Unreadable` with a reason for the sample table.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from .images import Unreadable

SUFFIXES = (".nii.gz", ".nii")  # the longer one first: it ends in the shorter one's middle
GZIP = b"\x1f\x8b"
HEADER_BYTES = {348: 1, 540: 2}  # `sizeof_hdr`, the first number of a header: the version of NIfTI
MAX_VOXELS = 2**30  # 4 GiB of floats; a scan has some 10 million, and a larger claim is refused
MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3}  # per spatial unit of the header; unknown counts as mm


@dataclass(frozen=True)
class Header:
    """What a file says of its volume, without reading the voxels."""

    shape: tuple[int, int, int]  # voxels to the right, to the front, upwards (R, A, S)
    spacing: tuple[float, float, float]  # mm between voxel centres along the same axes
    orientation: str  # of the stored axes, such as "LAS": where each one's index grows to
    stored: tuple[int, int, int]  # voxels along the stored axes
    dtype: str  # of the stored numbers, such as "int16"
    placed: bool  # whether the file says where its axes point; without sform and qform, LAS is assumed
    affine: tuple[tuple[float, ...], ...]  # (4, 4) voxel -> mm, of the stored axes


@dataclass(frozen=True)
class Volume:
    """A volume in memory."""

    data: NDArray[np.float32]  # (R, A, S)
    header: Header
    sha256: str  # of the file


def read_header(path: Path) -> Header:
    """The header of a NIfTI file; reads its first few hundred bytes only.

    Raises:
        Unreadable: with the reason.
    """
    return _header_of(raw_header(path))


def raw_header(path: Path) -> Any:
    """The header of a NIfTI file as nibabel's object, of version 1 or 2; reads its first few hundred bytes only.

    Raises:
        Unreadable: with the reason.
    """
    try:
        with path.open("rb") as file:
            return _parsed(_stream(file, path.name).read(max(HEADER_BYTES)))
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(_cannot(error)) from None


def is_second_version(raw: Any) -> bool:
    """Whether nibabel's header is one of NIfTI-2, whose 540 bytes hold longer sides."""
    return HEADER_BYTES[int(raw["sizeof_hdr"])] == 2


def read_volume(path: Path) -> Volume:
    """The volume of a NIfTI file, scale slopes applied.

    Raises:
        Unreadable: with the reason.
    """
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError

    try:
        data = path.read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        stream = _stream(io.BytesIO(data), path.name)
        start = stream.read(max(HEADER_BYTES))
        raw = _parsed(start)
        header = _header_of(raw)
        needed = int(raw.get_data_offset()) + int(np.prod(header.stored)) * raw.get_data_dtype().itemsize
        whole = start + stream.read(max(0, needed - len(start)))
        if len(whole) < needed:
            raise Unreadable(f"truncated: holds {len(whole):,} of the {needed:,} bytes that its header announces")
        while stream.read(2**20):  # to the end, where gzip keeps the checksum of it all
            pass
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(_cannot(error)) from None
    del data
    kind = nib.Nifti1Image if HEADER_BYTES[_header_size(start)] == 1 else nib.Nifti2Image
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what floats cannot hold becomes no finite number
            values = np.asarray(kind.from_bytes(whole).dataobj, dtype=np.float32).reshape(header.stored)
    except (OSError, ValueError, HeaderDataError) as error:
        raise Unreadable(f"damaged: {error}") from None
    turned = nib.apply_orientation(values, nib.io_orientation(np.array(header.affine)))
    return Volume(turned, header, sha256)


def _stream(file: IO[bytes], name: str) -> IO[bytes]:
    """The plain bytes of a file that may be compressed; a name that says otherwise is refused.

    Other tools go by the name, so a file that only we could read would cause trouble later.
    """
    magic = file.read(4)
    file.seek(0)
    if not magic:
        raise Unreadable("the file is empty")
    zipped, named = magic.startswith(GZIP), name.lower().endswith(".gz")
    if zipped and not named:
        raise Unreadable(f"named .nii, but its content is gzip-compressed: rename it to {name}.gz")
    if named and not zipped:
        plain = _header_size(magic) in HEADER_BYTES
        advice = f" but a plain NIfTI file: rename it to {name[: -len('.gz')]}" if plain else ", nor a NIfTI file"
        raise Unreadable(f"named .nii.gz, but its content is not gzip-compressed{advice}")
    return cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file


def _header_size(start: bytes) -> int:
    """The first number of a file in whichever byte order makes it that of a NIfTI header; else 0."""
    sizes = (int.from_bytes(start[:4], order) for order in ("little", "big"))
    return next((size for size in sizes if size in HEADER_BYTES), 0)


def _parsed(start: bytes) -> Any:
    """The header at the start of the plain bytes, as nibabel's object."""
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    size = _header_size(start)
    if not size:
        raise Unreadable("not a NIfTI file")
    if len(start) < size:
        raise Unreadable(f"truncated: holds {len(start)} of the {size} bytes of a header")
    kind = nib.Nifti1Header if HEADER_BYTES[size] == 1 else nib.Nifti2Header
    try:
        header = kind(start[:size])
    except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
        raise Unreadable(f"not a NIfTI file: {error}") from None
    if not bytes(header["magic"].item()).startswith(b"n+"):
        raise Unreadable("the header of an .hdr/.img pair: convert it to one .nii.gz file")
    return header


def _header_of(raw: Any) -> Header:
    """What matters of nibabel's header, checked."""
    import nibabel as nib
    from nibabel.spatialimages import HeaderDataError

    try:
        dtype, shape = raw.get_data_dtype(), tuple(int(side) for side in raw.get_data_shape())
        affine = np.array(raw.get_best_affine(), float)
        unit = raw.get_xyzt_units()[0]
    except (HeaderDataError, KeyError, ValueError) as error:
        raise Unreadable(f"damaged: {error}") from None
    if dtype.kind not in "iuf":
        raise Unreadable(f"holds {'complex numbers' if dtype.kind == 'c' else 'colours'}, not grey values")
    frames = int(np.prod(shape[3:]))
    if frames != 1:
        raise Unreadable(f"holds {frames} frames ({'x'.join(map(str, shape))}): a volume of one frame is needed")
    sides = (*shape[:3], 1, 1, 1)  # a single stored slice may lack the third side
    first = (sides[0], sides[1], sides[2])
    voxels = int(np.prod(first))
    if voxels == 0:
        raise Unreadable(f"holds no voxels: its shape is {'x'.join(map(str, shape)) or 'empty'}")
    if voxels > MAX_VOXELS:
        raise Unreadable(f"claims {voxels:,} voxels: refused")
    affine[:3] *= MILLIMETRES.get(unit, 1.0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise Unreadable("damaged: its affine does not place the voxels in space")
    turn = nib.io_orientation(affine)
    if np.isnan(turn).any() or len(set(turn[:, 0])) < 3:
        raise Unreadable("damaged: its affine does not tell the axes apart")
    stored_of = np.argsort(turn[:, 0])  # for each canonical axis, the stored one
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return Header(
        shape=tuple(int(first[axis]) for axis in stored_of),  # type: ignore[arg-type]
        spacing=tuple(float(sizes[axis]) for axis in stored_of),  # type: ignore[arg-type]
        orientation="".join(nib.orientations.ornt2axcodes(turn)),
        stored=first,
        dtype=dtype.newbyteorder("=").name,
        placed=bool(raw["sform_code"] > 0 or raw["qform_code"] > 0),
        affine=tuple(tuple(float(value) for value in row) for row in affine),
    )


def _cannot(error: Exception) -> str:
    if isinstance(error, EOFError):
        return "truncated: its compressed content ends too early"
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return f"damaged: {error}"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
