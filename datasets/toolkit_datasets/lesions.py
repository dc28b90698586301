"""Lesions of known place, size and contrast, put into healthy scans: what a detector can be measured with.

A lesion is a smooth ellipsoid that is added to the voxels, so that the texture below shows through. It is no model of
any disease: it tells how large and how bright something must be to be found, and lets settings be chosen without
looking at patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EDGE = 0.3  # of the radius: over the outermost part of it the contrast falls to nothing
AXES_RATIO = 1.3  # largest ratio of a half-axis to the radius; the three have the radius for their geometric mean


@dataclass(frozen=True)
class Lesion:
    """An ellipsoid. Positions are in mm from the volume's lower faces, along (R, A, S)."""

    centre: tuple[float, float, float]  # mm
    axes: tuple[float, float, float]  # mm, half-axes
    contrast: float  # what is added at the middle, as a share of black to white; below 0 it is darker


def draw_lesion(
    rng: np.random.Generator,
    inside: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    *,
    radius: float,
    contrast: float,
) -> Lesion:
    """A lesion at a random place that lies within `inside`, whole where that is thick enough.

    Args:
        rng: decides place and shape, and nothing else does.
        inside: (R, A, S) where lesions may be.
        spacing: mm between voxels.
        radius: mm, of the ball of equal volume.
        contrast: see `Lesion`.

    Raises:
        ValueError: `inside` is empty.
    """
    from scipy.ndimage import distance_transform_edt  # type: ignore[import-untyped]

    stretch = rng.uniform(-1, 1, 3) * np.log(AXES_RATIO)
    axes = radius * np.exp(stretch - stretch.mean())
    chance = rng.uniform()
    depth = distance_transform_edt(np.pad(inside, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    if not inside.any():
        raise ValueError("there is no voxel in which a lesion may be")
    places = np.argwhere(depth >= min(radius, float(depth.max())))
    centre = (places[int(chance * len(places))] + 0.5) * np.array(spacing)
    return Lesion(_three(centre), _three(axes), contrast)


def put(
    data: NDArray[np.float32], spacing: tuple[float, float, float], lesion: Lesion, *, black_to_white: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A copy of `data` (R, A, S) with the lesion in it, and its mask: where at least half of the contrast is added.

    `black_to_white` is the width of the volume's window, in the unit of `data`.
    """
    strength = np.zeros(data.shape, np.float32)
    offsets = [
        ((np.arange(n) + 0.5) * step - middle) / axis
        for n, step, middle, axis in zip(data.shape, spacing, lesion.centre, lesion.axes, strict=True)
    ]
    box = tuple(slice(*_span(np.abs(each) < 1)) for each in offsets)
    r, a, s = (each[part] for each, part in zip(offsets, box, strict=True))
    radius = np.sqrt(r[:, None, None] ** 2 + a[:, None] ** 2 + s**2)
    ramp = np.clip((1 - radius) / EDGE, 0, 1)
    strength[box] = ramp * ramp * (3 - 2 * ramp)  # smoothstep: no corner at either end
    added = data + np.float32(lesion.contrast * black_to_white) * strength
    return added, strength >= 0.5


def _span(within: NDArray[np.bool_]) -> tuple[int, int]:
    """First and last+1 place of those that are True; an empty range where none is."""
    places = np.flatnonzero(within)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    r, a, s = values.tolist()
    return r, a, s
