"""Rows of volumes: reading NIfTI files, and cutting their slices, against nibabel's own load.

They need real scans, which do not come with the toolkit: those in brain_t1/ds002748_2mm of the folder that
TOOLKIT_REAL_DATA names (53 skull-stripped heads of 144x144x90 voxels, int16, 0.4 MB each).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from measure import Row, Timed, alternate


def rows(folder: Path) -> list[Row]:
    """Rows of the real scans; none where there are none, and a line that says so."""
    scans = Path(os.environ.get("TOOLKIT_REAL_DATA", "")) / "brain_t1" / "ds002748_2mm"
    if not os.environ.get("TOOLKIT_REAL_DATA") or not scans.is_dir():
        print("volumes: left out; set TOOLKIT_REAL_DATA to the folder that holds brain_t1/ds002748_2mm", flush=True)
        return []
    return [reading(scans), slicing(scans)]


def load_all(scans: Path) -> None:
    """Every volume by nibabel, as floats."""
    import nibabel as nib

    for path in sorted(scans.glob("*.nii.gz")):
        np.asarray(nib.load(path).dataobj, dtype=np.float32)


def reading(scans: Path) -> Row:
    """Volumes into memory one by one: hashed, checked and turned to RAS, against nibabel's load alone."""
    from toolkit_datasets.nifti import read_volume

    paths = sorted(scans.glob("*.nii.gz"))

    def ours() -> None:
        for path in paths:
            read_volume(path)

    timed = alternate(ours, lambda: load_all(scans))
    return volume_row("volume-reading", "read {n} volumes, with hash and checks, against nibabel's load", paths, timed)


def slicing(scans: Path) -> Row:
    """Volumes into 30 slices each in the cache, on all cores, against nibabel's load alone on one."""
    from toolkit_datasets.card import load_card
    from toolkit_datasets.prepare import prepare

    paths, card = sorted(scans.glob("*.nii.gz")), load_card("ds002748")

    def ours() -> None:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["TOOLKIT_CACHE"] = cache
            prepare(card, scans, split=False)

    timed = alternate(ours, lambda: load_all(scans))
    what = "cut {n} volumes into 30 slices each of 128 px, in the cache, against nibabel's load alone"
    return volume_row("volume-slicing", what, paths, timed)


def volume_row(name: str, what: str, paths: list[Path], timed: Timed) -> Row:
    """Volumes a second of both sides."""
    n = len(paths)
    return Row(name, what.format(n=n), f"{n / timed.ours:.1f}/s", f"{n / timed.other:.1f}/s", timed.ratios)
