"""Grey values of a scan: what is head, and which values become black and white.

MRI has no unit, so every volume gets a window of its own; its slices share that window, or the same tissue would
change its grey from slice to slice, and bright slices could not be told from dark ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .images import Unreadable

# FSL's rule for telling head from air (Smith 2002, "Fast robust automated brain extraction", doi 10.1002/hbm.10062):
# 10 % of the way between the 2nd and the 98th percentile of all voxels. Works with and without the skull.
ROBUST = (2.0, 98.0)
SHARE = 0.1


@dataclass(frozen=True)
class Window:
    """Which values matter in one volume, in its own unit."""

    threshold: float  # above it a voxel is foreground: the head, or what skull stripping left of it
    low: float  # becomes 0, with all below
    high: float  # becomes 255, with all above

    def grey(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values of any shape as float32 from 0 to 255, clipped to the window."""
        scaled = (values - np.float32(self.low)) * np.float32(255 / (self.high - self.low))
        return np.clip(scaled, 0, 255, out=scaled)

    def values(self, grey: NDArray[np.float32]) -> NDArray[np.float32]:
        """The way back: grey from 0 to 255 in the volume's own unit, as float32. What was clipped stays clipped."""
        return np.float32(self.low) + np.asarray(grey, np.float32) * np.float32((self.high - self.low) / 255)


def window_of(data: NDArray[np.float32], clip: tuple[float, float]) -> Window:
    """The window of a volume. Single values that are not finite count as background and are changed to it in place.

    Args:
        data: (R, A, S) the whole volume.
        clip: percentiles of the foreground that become black and white.

    Raises:
        Unreadable: no finite value, or all are equal.
    """
    values = data.flatten(order="K")  # as they lie in memory, which is faster: nothing below asks where a voxel is
    finite = np.isfinite(values)
    if not finite.any():
        raise Unreadable("holds no finite value (filled with NaN)")
    if not finite.all():  # NaN around the brain is some tools' way to say "outside"
        outside = values[finite].min()
        values[~finite] = outside
        data[~np.isfinite(data)] = outside
    del finite
    lowest, highest = float(values.min()), float(values.max())
    if lowest == highest:
        raise Unreadable(f"constant: every voxel is {lowest:g}")
    dark, bright = (float(value) for value in np.percentile(values, ROBUST, overwrite_input=True))
    if dark == bright:  # fewer than 2 in 100 voxels differ from the background
        dark, bright = lowest, highest
    threshold = dark + SHARE * (bright - dark)
    foreground = values[values > threshold]
    low, high = (float(value) for value in np.percentile(foreground, clip, overwrite_input=True))
    if not high > low:  # a mask: the foreground is one value
        low, high = dark, float(foreground.max())
    return Window(threshold, low, high)


def foreground_of(slices: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels of a volume's slices (n, H, W, C) uint8 show head, (n, H, W): those that are not black.

    Black is where the window begins (`slices.clip`, by default half a percent into the volume's foreground), so what
    FSL's rule calls air is black in every slice, and hardly anything else is.
    """
    return np.asarray((slices > 0).any(axis=-1))
