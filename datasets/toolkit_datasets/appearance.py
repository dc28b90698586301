"""What images look like, in a few numbers: by them one cohort of scans, or set of pictures, is told from another.

All are taken from decoded images, as a model sees them, so they are the same for a file of any type or orientation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .intensity import foreground_of

GREYS = 32  # bins of a histogram of grey values
LOOKED_AT = 16  # slices of a volume in which the skull is looked for: the distance transform of one takes some 5 ms
COARSEST = 6.0  # mm for each pixel: beyond that, scalp and skull are one pixel
DEEP = 45.0  # mm below the outline, as far as is looked: in the brain, whatever the head
SKULL_ENDS = 25.0  # mm below the outline, where the skull has ended in every slice but those through the face
CUT_OFF = 0.5  # share of the picture's border that is head, from which on its outline is not to be seen
SKULL = 0.06  # `outline` above it: the skull is there


def of_slices(slices: NDArray[np.uint8], mm: float) -> dict[str, float]:
    """What the slices of one volume look like.

    Args:
        slices: (n, H, W, C) uint8.
        mm: width of a pixel.

    Returns:
        foreground: share of the pixels that show head, 0 to 1.
        border: share of the picture's outermost pixels that show head: above 0 the field of view cuts it.
        brightness, contrast: mean and standard deviation of the grey values (0 to 1) in the foreground.
        outline: see `outline`; NaN where it is not to be seen.
    """
    shown = foreground_of(slices)
    grey = slices[shown].mean(axis=-1) / 255 if shown.any() else np.zeros(1)
    return {
        "foreground": float(shown.mean()),
        "border": float(_border(shown)),
        "brightness": float(grey.mean()),
        "contrast": float(grey.std()),
        "outline": outline(slices, mm),
    }


def of_picture(picture: NDArray[np.uint8]) -> dict[str, float]:
    """What a picture (H, W, C) uint8 looks like: brightness and contrast (mean and deviation of its grey values, 0 to
    1), and colour (mean distance of the channels from each other, 0 to 1)."""
    grey = picture.mean(axis=-1) / 255
    colour = (picture.max(axis=-1) - picture.min(axis=-1)).mean() / 255
    return {"brightness": float(grey.mean()), "contrast": float(grey.std()), "colour": float(colour)}


def grey_histogram(images: NDArray[np.uint8], *, foreground: bool) -> NDArray[np.int64]:
    """How often each of `GREYS` equal steps of grey occurs in (n, H, W, C) uint8: (GREYS,); of slices in the
    foreground only."""
    values = images[foreground_of(images)] if foreground else images.reshape(-1, images.shape[-1])
    return np.bincount((values.mean(axis=-1) * (GREYS / 256)).astype(int), minlength=GREYS)


def outline(slices: NDArray[np.uint8], mm: float) -> float:
    """How deep the dark ring is that the skull makes in a T1 head between bright scalp and bright brain, 0 to 1.

    Grey is averaged over all pixels at the same distance from the edge of the head, holes filled. From the edge of a
    stripped brain inwards it only rises; through scalp and skull it rises, falls and rises again. The result is the
    deepest fall, as a share of the lower of its two sides.

    Measured: 0.00 in 55 stripped brains, 0.10 to 0.35 in two IXI heads, in three planes, at 1.9 to 5 mm for each pixel.

    Args:
        slices: (n, H, W, C) uint8 of one volume, of any plane.
        mm: width of a pixel.

    Returns:
        NaN where pixels are wider than 6 mm, or the border of the pictures cuts the head.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    chosen = slices[np.unique(np.linspace(0, len(slices) - 1, LOOKED_AT).astype(int))]
    shown = foreground_of(chosen)
    if mm > COARSEST or _border(shown) > CUT_OFF:
        return float("nan")
    step = max(mm, 2.0)
    bins = int(DEEP / step)
    sums, counts = np.zeros(bins), np.zeros(bins)
    for picture, mask in zip(chosen.mean(axis=-1), shown, strict=True):
        filled = ndimage.binary_fill_holes(mask)
        if filled.all() or not filled.any():
            continue
        depth = ((ndimage.distance_transform_edt(filled)[filled] - 0.5) * mm / step).astype(int)
        near = depth < bins
        sums += np.bincount(depth[near], picture[filled][near], minlength=bins)
        counts += np.bincount(depth[near], minlength=bins)
    known = counts > 0
    profile = sums[known] / counts[known]
    falls = [
        1 - profile[here] / side
        for here in range(1, min(int(SKULL_ENDS / step), len(profile) - 1))
        if (side := min(profile[:here].max(), profile[here + 1 :].max())) > 0
    ]
    return float(max([0.0, *falls])) if len(profile) > 2 else float("nan")


def _border(shown: NDArray[np.bool_]) -> float:
    """Share of the outermost pixels of (n, H, W) that is True."""
    sides = (shown[:, 0], shown[:, -1], shown[:, 1:-1, 0], shown[:, 1:-1, -1])
    return float(np.concatenate([side.ravel() for side in sides]).mean())
