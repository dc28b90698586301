"""Which slices of a volume, where they lie, and how one becomes a square picture.

Positions are in mm from the volume's own lower face along the chosen axis (its left, back or bottom): stored slice i
fills [i * spacing, (i + 1) * spacing), its centre is half a spacing further. Pictures follow one rule for all planes:
right, front and top of the head (R, A, S) are at the right and at the top of the picture. So an axial slice has the
nose up and the patient's left at the left ("neurological" convention), a sagittal slice has the nose at the right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .card_data import Slices
from .nifti import Header

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
IN_PLANE = {"sagittal": (2, 1), "coronal": (2, 0), "axial": (1, 0)}  # the axes that go up and to the right
SIDES = {"sagittal": ("P", "A", "I", "S"), "coronal": ("L", "R", "I", "S"), "axial": ("L", "R", "P", "A")}
"""Letters at the left, right, bottom and top of a picture."""


@dataclass(frozen=True)
class Place:
    """Where one slice is cut."""

    index: float  # in stored slices; between two of them where it is not whole
    mm: float  # of its centre, from the lower face


def planned(wanted: Slices, header: Header) -> list[str]:
    """Names of the slices that a card wants of a volume, from its header alone; empty where the range misses it.

    With a count, slices are numbered 0 to count - 1 and lie where `located` finds them in the voxels; else a slice's
    name is its index in the canonical volume.
    """
    if wanted.count:
        return [str(number) for number in range(wanted.count)]
    axis = AXES[wanted.axis]
    slices, spacing = header.shape[axis], header.spacing[axis]
    if wanted.by == "index":
        start, stop = (None if end is None else int(end) for end in (wanted.start, wanted.stop))
        return [str(index) for index in range(slices)[start:stop]]
    unit = spacing if wanted.by == "mm" else 1 / slices
    low, high = _or(wanted.start, 0.0), _or(wanted.stop, math.inf)
    return [str(index) for index in range(slices) if low <= (index + 0.5) * unit < high]


def located(wanted: Slices, header: Header, head: tuple[int, int], names: list[str]) -> list[Place]:
    """Where the planned slices lie.

    Args:
        wanted: how they are chosen. A count divides the range into equal parts and takes the middle of each.
        header: of the volume.
        head: first and last+1 slice that shows head, along the axis.
        names: as `planned` gave them.

    Returns:
        A place for each name. Stored slices are taken as they are, the nearest to each position, where the volume has
        enough of them; asked for more, it is interpolated between two neighbours, so that no slice comes twice.
    """
    axis = AXES[wanted.axis]
    slices, spacing = header.shape[axis], header.spacing[axis]
    if not wanted.count:
        return [Place(int(name), (int(name) + 0.5) * spacing) for name in names]
    low, high = ends(wanted, header, head)
    step = (high - low) / wanted.count
    places = []
    for name in names:
        index = (low + (int(name) + 0.5) * step) / spacing - 0.5
        if step > spacing * (1 - 1e-6):
            index = math.floor(index + 0.5 + 1e-6)
        elif -0.5 <= index <= slices - 0.5:
            index = min(max(index, 0), slices - 1)  # the outer half of the outermost slices has no second neighbour
        places.append(Place(index, (index + 0.5) * spacing))
    return places


def ends(wanted: Slices, header: Header, head: tuple[int, int]) -> tuple[float, float]:
    """The chosen range in mm from the lower face: where the first slice begins and the last one ends."""
    axis = AXES[wanted.axis]
    slices, spacing = header.shape[axis], header.spacing[axis]
    if wanted.by == "mm":
        return _or(wanted.start, 0.0), _or(wanted.stop, slices * spacing)
    if wanted.by == "index":
        start, stop = (None if end is None else int(end) for end in (wanted.start, wanted.stop))
        first, last, _ = slice(start, stop).indices(slices)
        return first * spacing, max(first, last) * spacing
    bottom, top = (head[0] * spacing, head[1] * spacing) if wanted.by == "head" else (0.0, slices * spacing)
    return tuple(bottom + share * (top - bottom) for share in (_or(wanted.start, 0.0), _or(wanted.stop, 1.0)))  # type: ignore[return-value]


def extent(foreground: NDArray[np.bool_], axis: int, least: float) -> tuple[int, int]:
    """First and last+1 slice along `axis` of which at least the share `least` is foreground; (0, 0) where none is."""
    others = tuple(other for other in range(3) if other != axis)
    shown = np.flatnonzero(foreground.mean(axis=others) >= least)
    return (int(shown[0]), int(shown[-1]) + 1) if len(shown) else (0, 0)


def plane(data: NDArray[np.float32], axis: str, index: float) -> NDArray[np.float32]:
    """One slice of (R, A, S) data as (H, W), the right way up; linear between two slices where `index` is not whole."""
    along = AXES[axis]
    below = math.floor(index)
    slabs = np.moveaxis(data, along, 0)
    cut: NDArray[np.float32] = slabs[below]
    if index != below:
        weight = np.float32(index - below)
        cut = cut * (1 - weight) + slabs[below + 1] * weight
    return cut.T[::-1]  # what is left of R, A, S keeps its order: the second of the two goes up in every plane


def slab(cut: NDArray[np.float32]) -> NDArray[np.float32]:
    """The way back from `plane`: (H, W) the right way up as the two axes of (R, A, S) data that it was cut along."""
    return cut[::-1].T


@dataclass(frozen=True)
class Frame:
    """The square of a plane that becomes the picture, in voxels of the upright slice; parts outside are black."""

    left: float
    top: float
    right: float
    bottom: float

    def picture(self, grey: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
        """(H, W) values from 0 to 255 as (size, size) uint8: cut out, padded and resampled in one go.

        Bilinear, with antialiasing where it shrinks, as for pictures. Every resampling blurs, so there is only one.
        """
        height, width = grey.shape
        margins = [
            (max(0, math.ceil(-self.top)), max(0, math.ceil(self.bottom - height))),
            (max(0, math.ceil(-self.left)), max(0, math.ceil(self.right - width))),
        ]
        padded = np.pad(grey, margins)
        (above, _), (before, _) = margins
        box = (
            max(0.0, self.left + before),
            max(0.0, self.top + above),
            min(float(padded.shape[1]), self.right + before),
            min(float(padded.shape[0]), self.bottom + above),
        )
        image = Image.fromarray(np.ascontiguousarray(padded, np.float32))
        resized = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
        result: NDArray[np.uint8] = np.asarray(resized).round().clip(0, 255).astype(np.uint8)
        return result

    def voxels(self, picture: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """The way back: a (size, size) picture on the (height, width) voxels of its slice, float32, not rounded.

        NaN where the centre of a voxel lies outside the square. Bilinear, antialiased where it shrinks; where pixels
        and voxels coincide, values are what they were.
        """
        size = picture.shape[0]
        across, down = size / (self.right - self.left), size / (self.bottom - self.top)  # pixels for each voxel
        columns = _centres_within(self.left, self.right, width)
        rows = _centres_within(self.top, self.bottom, height)
        slab = np.full((height, width), np.nan, np.float32)
        if not (len(columns) and len(rows)):
            return slab
        margin = 1 + math.ceil(max(across, down))  # the outermost voxels may lie half outside the square
        padded = Image.fromarray(np.pad(np.asarray(picture, np.float32), margin, mode="edge"))
        box = (
            (columns.start - self.left) * across + margin,
            (rows.start - self.top) * down + margin,
            (columns.stop - self.left) * across + margin,
            (rows.stop - self.top) * down + margin,
        )
        slab[rows.start : rows.stop, columns.start : columns.stop] = np.asarray(
            padded.resize((len(columns), len(rows)), Image.Resampling.BILINEAR, box=box)
        )
        return slab


def frame_of(wanted: Slices, header: Header, foreground: NDArray[np.bool_], size: int) -> Frame:
    """The square that the card wants of every slice of this volume.

    Its side is `fov` mm, or `spacing` mm for each pixel, or the longer side of the plane; square pixels of equal mm in
    both directions come out of it, whatever the voxels' shape.
    """
    axes = IN_PLANE[wanted.axis]
    side = side_mm(wanted, header, size)
    bounds = []
    for axis in axes:
        middle = header.shape[axis] / 2
        if wanted.centre == "head":
            first, last = extent(foreground, axis, wanted.least)
            middle = (first + last) / 2 if last else middle
        half = side / header.spacing[axis] / 2
        bounds.append((middle - half, middle + half))
    (low, high), (left, right) = bounds
    height = header.shape[axes[0]]
    return Frame(left=left, top=height - high, right=right, bottom=height - low)


def side_mm(wanted: Slices, header: Header, size: int) -> float:
    """How many mm the square is wide and high that becomes a picture of `size` px."""
    lengths = [header.shape[axis] * header.spacing[axis] for axis in IN_PLANE[wanted.axis]]
    return wanted.fov or (wanted.spacing * size if wanted.spacing else max(lengths))


def _centres_within(low: float, high: float, count: int) -> range:
    """The voxels of `count` whose centres lie in [low, high]."""
    return range(max(0, math.ceil(low - 0.5)), min(count, math.floor(high - 0.5) + 1))


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
