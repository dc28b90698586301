"""Slices back into their volume: the inverse of slicing.py and nifti.py, on the voxel grid of the file as it is stored.

Frame, resampling and the order of the axes are undone, so that voxel (i, j, k) of the result is voxel (i, j, k) of
the file and lies at the same place in mm. Nothing is invented: stored slices that no picture was cut from, and voxels
outside the field of view, hold NaN.
"""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .atomic import replacing
from .nifti import is_second_version, raw_header
from .slicing import AXES, Place, slab
from .volumes import Layout

DESCRIPTION_BYTES = 79  # of a NIfTI header, and a zero at the end
COMPRESSION = 1  # of gzip; for a volume of floats half the time of 6, and 4 % larger


def restored(pictures: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    """Pictures of the slices of one volume on the voxels of its file.

    Args:
        pictures: (n, size, size) or (n, size, size, C), of which channels are averaged: one for each place of the
            layout, of any numbers: grey values, a reconstruction, an error map. For the scan's own unit give them
            through `layout.window.values` first.
        layout: see `volumes.read_layout`.

    Returns:
        (i, j, k) float32 of `layout.header.stored` voxels; NaN where no picture says anything. Where slices had been
        interpolated because the volume holds fewer than were wanted, a stored slice lies between two pictures, and is
        interpolated between them again.
    """
    import nibabel as nib

    header = layout.header
    if len(pictures) != len(layout.places):
        raise ValueError(f"{len(pictures)} pictures for {len(layout.places)} slices")
    flat = np.asarray(pictures, np.float32)
    if flat.ndim == 4:
        flat = flat.mean(axis=-1)
    canvas = np.full(header.shape, np.nan, np.float32)  # (R, A, S)
    slabs = np.moveaxis(canvas, AXES[layout.axis], 0)
    for index in range(len(slabs)):
        if weights := _weights(layout.places, index):
            picture = sum(weight * flat[number] for number, weight in weights)
            slabs[index] = slab(layout.frame.voxels(np.asarray(picture, np.float32), *layout.sides))
    canonical = np.array([[axis, 1] for axis in range(3)])
    back = nib.orientations.ornt_transform(canonical, nib.io_orientation(np.array(header.affine)))
    return np.ascontiguousarray(nib.apply_orientation(canvas, back), np.float32)


def _weights(places: tuple[Place, ...], index: int) -> list[tuple[int, float]]:
    """Which pictures make up stored slice `index`, and to which share; none where none was cut there."""
    below = max(
        (n for n, place in enumerate(places) if place.index <= index), key=lambda n: places[n].index, default=-1
    )
    above = min(
        (n for n, place in enumerate(places) if place.index >= index), key=lambda n: places[n].index, default=-1
    )
    down = index - places[below].index if below >= 0 else math.inf
    up = places[above].index - index if above >= 0 else math.inf
    if min(down, up) == 0:
        return [(below if down == 0 else above, 1.0)]
    if down + up < 1:  # closer than stored slices are: they had been interpolated
        return [(below, up / (down + up)), (above, down / (down + up))]
    near, distance = (below, down) if down < up else (above, up)
    return [(near, 1.0)] if distance < 0.5 else []  # the outermost of them


def write_nifti(path: Path, voxels: NDArray[Any], *, like: Path, description: str) -> None:
    """Write an array on the voxels of the file `like` as a NIfTI file of its own, in one step.

    Args:
        path: ends in .nii.gz or .nii.
        voxels: float32 of the shape in which `like` is stored, see `restored`.
        like: the file whose affine, units, shape and version are taken over; extensions of its header are not.
        description: what the numbers are, for the header; 79 bytes of it are kept.

    Raises:
        Unreadable: `like` is no NIfTI file any more.
    """
    import nibabel as nib

    header = raw_header(like)
    shape = tuple(int(side) for side in header.get_data_shape())
    header.set_data_dtype(np.float32)
    header.set_slope_inter(1.0, 0.0)
    header["cal_min"] = header["cal_max"] = 0  # of the old numbers: a viewer finds its own window
    header["vox_offset"] = 0
    header["descrip"] = description.encode("ascii", "replace")[:DESCRIPTION_BYTES]
    kind = nib.Nifti2Image if is_second_version(header) else nib.Nifti1Image
    data = kind(np.asarray(voxels, np.float32).reshape(shape), None, header).to_bytes()
    if path.name.endswith(".gz"):
        data = gzip.compress(data, COMPRESSION, mtime=0)  # no time: the same numbers give the same file
    with replacing(path) as temporary:
        temporary.write_bytes(data)
