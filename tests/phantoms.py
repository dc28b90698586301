"""Volumes made up for tests: a head of known shape, stored in any orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

RAS = np.array([[0, 1], [1, 1], [2, 1]])


def head(shape: tuple[int, int, int] = (40, 48, 44), *, seed: int = 0) -> np.ndarray:
    """A head in RAS+ order, float32: an ellipsoid of 400 to 1,000 with a bright spot of 1,400 at its right front top.

    Noise of a few units outside stands for air. Every seed is another person.
    """
    rng = np.random.default_rng(seed)
    r, a, s = (np.linspace(-1, 1, n)[tuple(np.newaxis if i != axis else slice(None) for i in range(3))]
               for axis, n in enumerate(shape))  # fmt: skip
    radius = np.sqrt((r / 0.7) ** 2 + (a / 0.85) ** 2 + (s / 0.8) ** 2)
    data = np.abs(rng.normal(0, 4, shape))
    data += (radius < 1) * (700 + 300 * np.cos(5 * r + rng.uniform(0, 6)) * np.cos(4 * a + rng.uniform(0, 6)))
    data += (np.sqrt((r - 0.3) ** 2 + (a - 0.4) ** 2 + (s - 0.4) ** 2) < 0.12) * 400
    return data.astype(np.float32)


def save(
    path: Path,
    data: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    orientation: np.ndarray = RAS,
    dtype: str = "int16",
    slope: float = 0.0,
    version: int = 1,
    tilt: float = 0.0,
) -> Path:
    """Write RAS+ data with its axes stored as `orientation` (nibabel's terms) says, and an affine that tells so.

    Args:
        path: .nii or .nii.gz.
        data: (R, A, S), or with a fourth axis.
        spacing: mm along R, A, S.
        orientation: rows (stored axis, direction) for R, A, S.
        dtype: of the stored numbers.
        slope: values are stored divided by it; 0 for as they are.
        version: of NIfTI.
        tilt: degrees by which the head is turned against the scanner's axes.
    """
    angle = np.deg2rad(tilt)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(spacing)
    affine[:3, 3] = (-30, 12.5, 7)
    stored = nib.apply_orientation(data, orientation)
    affine = affine @ nib.orientations.inv_ornt_aff(orientation, data.shape[:3])
    image = (nib.Nifti1Image if version == 1 else nib.Nifti2Image)(
        (stored / slope).round().astype(dtype) if slope else stored.astype(dtype), affine, dtype=np.dtype(dtype)
    )
    if slope:
        image.header.set_slope_inter(slope, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path
