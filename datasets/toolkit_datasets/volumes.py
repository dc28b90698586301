"""Volumes as a source: every NIfTI file below a folder, each of its slices one sample.

Headers say how many slices a volume gives before any voxel is read (see `slicing.planned`), so the sample table is
known at once; where slice k of n lies within the head is found when the volume is decoded. A volume is read once, all
of its slices are cut from it, and it is forgotten: memory holds one volume for each worker.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .cache import stamp
from .card import Card
from .errors import ToolkitError
from .images import EMPTY, Decoded, Unreadable
from .intensity import Window, window_of
from .nifti import SUFFIXES, Header, Volume, read_header, read_volume
from .samples import Scan, file_table, find_files, natural_key
from .slicing import AXES, IN_PLANE, Frame, Place, extent, frame_of, located, plane, planned
from .strip import find_tool, scratch, stripped

FACTS = ("path", "shape", "spacing", "orientation", "dtype", "slices", "problem")


class Volumes:
    """NIfTI files below a folder."""

    def __init__(self, card: Card, root: Path, labels: Path | None, *, files: Collection[str] | None = None) -> None:
        self.origin, self._root, self._card = str(root.resolve()), root, card
        self._tool = "" if card.slices.strip == "none" else find_tool(card.slices.strip)
        self.recipe: Mapping[str, Any] = {
            "image": card.image.model_dump(),
            "slices": card.slices.model_dump(),
            "tool": Path(self._tool).name,
        }
        self.scan = self._scan(labels, files)

    def stamps(self, paths: Sequence[str]) -> list[str]:
        """Size and time of change of each file."""
        return [stamp(self._root, path) for path in paths]

    def decode(self, path: str, slices: Sequence[str]) -> list[Decoded | Unreadable]:
        """Read a volume and cut the named slices from it."""
        return cut(self._root / path, self._card, slices, tool=self._tool)

    def _scan(self, labels: Path | None, named: Collection[str] | None) -> Scan:
        card = self._card
        paths, ignored = (
            (list(named), 0) if named is not None else find_files(self._root, SUFFIXES, card, what="volumes")
        )
        files = file_table(sorted(paths, key=natural_key), card, self._root, labels)
        samples = files.samples
        samples["group"] = samples["group"].where(samples["group"] != "", samples["id"])  # a volume is one subject
        with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:  # waiting for the disk, mostly
            headers = list(pool.map(_header, [self._root / path for path in samples["path"]]))
        if not any(isinstance(header, Header) for header in headers):
            raise ToolkitError(
                f"none of the {len(headers)} volumes in {self._root} can be read; the first: "
                f"{samples['path'].iat[0]}: {headers[0]}"
            )
        plans = [planned(card.slices, header) if isinstance(header, Header) else [] for header in headers]
        facts = [_facts(*known) for known in zip(samples["path"], headers, plans, strict=True)]
        # A volume without slices keeps one row, which says why.
        repeats = [max(1, len(plan)) for plan in plans]
        rows = samples.loc[samples.index.repeat(repeats)].reset_index(drop=True)
        rows["slice"] = [name for plan in plans for name in plan or [""]]
        return Scan(
            rows,
            ignored,
            files.notes,
            table=files.table,
            exclusions=files.exclusions,
            demographics=files.demographics,
            volumes=pd.DataFrame(facts, columns=list(FACTS), dtype=object),
        )


@dataclass(frozen=True)
class Layout:
    """Where the slices of one volume are cut, and how they become pictures: all that it takes to put them back."""

    header: Header
    axis: str  # of the slices, such as "axial"
    window: Window
    frame: Frame
    places: tuple[Place, ...]  # of the slices, in order

    @property
    def sides(self) -> tuple[int, int]:
        """Voxels of a slice, upright: height and width."""
        up, right = IN_PLANE[self.axis]
        return self.header.shape[up], self.header.shape[right]


def read_layout(path: Path, card: Card, slices: Sequence[str]) -> Layout:
    """How `cut` took the named slices from the volume at `path`, which is read again; the skull comes off again too.

    Raises:
        Unreadable: the volume cannot be had at all, or has no slice where the card wants some.
        ToolkitError: the tool that takes the skull off is gone.
    """
    tool = "" if card.slices.strip == "none" else find_tool(card.slices.strip)
    return _laid_out(path, card, slices, tool)[1]


def cut(path: Path, card: Card, slices: Sequence[str], *, tool: str = "") -> list[Decoded | Unreadable]:
    """The named slices of the volume at `path` as pictures, in order; an `Unreadable` for each that shows no head.

    Args:
        path: of the file.
        card: which slices, and how they become pictures.
        slices: as `planned` named them.
        tool: path of the one that takes the skull off first; "" for none.

    Raises:
        Unreadable: the volume cannot be had at all, or has no slice where the card wants some.
    """
    wanted, size = card.slices, card.image.size
    volume, layout, shares = _laid_out(path, card, slices, tool)
    header, window, axis = layout.header, layout.window, AXES[wanted.axis]
    height, width = layout.sides
    plane_area = math.prod(header.shape[of] * header.spacing[of] for of in IN_PLANE[wanted.axis])  # mm2
    millilitres = float(shares.sum()) * plane_area * header.spacing[axis] / 1000
    results: list[Decoded | Unreadable] = []
    for place in layout.places:
        if not 0 <= place.index <= header.shape[axis] - 1:
            length = header.shape[axis] * header.spacing[axis]
            results.append(Unreadable(f"{EMPTY}: {place.mm:.1f} mm is outside the volume, which ends at {length:.1f}"))
            continue
        share = float(shares[round(place.index)])
        if share < wanted.least:
            results.append(Unreadable(f"{EMPTY}: {100 * share:.2g} % of it is head, less than slices.least"))
            continue
        grey = layout.frame.picture(window.grey(plane(volume.data, wanted.axis, place.index)), size)
        pixels = np.repeat(grey[:, :, None], card.image.channels, axis=2)
        limits = f"{window.low:.6g} {window.high:.6g}"
        position = f"{place.mm:.2f}"
        size_of_head = f"{share * plane_area / 100:.6g} {millilitres:.6g}"
        results.append(Decoded(pixels, volume.sha256, header.dtype, width, height, position, limits, size_of_head))
    return results


def _laid_out(
    path: Path, card: Card, slices: Sequence[str], tool: str
) -> tuple[Volume, Layout, NDArray[np.floating[Any]]]:
    """A volume, where its slices lie, and the share of each stored slice along the axis that is foreground."""
    wanted = card.slices
    volume = read_volume(path) if not tool else _stripped(path, tool)
    header, axis = volume.header, AXES[wanted.axis]
    if list(slices) == [""]:
        raise Unreadable(_no_slices(card, header))
    window = window_of(volume.data, wanted.clip)
    foreground = volume.data > window.threshold
    head = extent(foreground, axis, wanted.least)
    if head == (0, 0):
        raise Unreadable(f"shows no head: no {wanted.axis} slice is foreground to {wanted.least:.3g} or more")
    frame = frame_of(wanted, header, foreground, card.image.size)
    places = located(wanted, header, head, list(slices))
    shares = foreground.mean(axis=tuple(other for other in range(3) if other != axis))
    return volume, Layout(header, wanted.axis, window, frame, tuple(places)), shares


def _stripped(path: Path, tool: str) -> Volume:
    """The volume without its skull, under the hash of the file as it came."""
    with scratch() as folder:
        volume = read_volume(stripped(tool, path, Path(folder)))
    return replace(volume, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _header(path: Path) -> Header | str:
    try:
        return read_header(path)
    except Unreadable as error:
        return str(error)


def _facts(path: str, header: Header | str, plan: list[str]) -> dict[str, object]:
    if isinstance(header, str):
        return dict(zip(FACTS, (path, "", "", "", "", 0, header), strict=True))
    return {
        "path": path,
        "shape": "x".join(map(str, header.stored)),
        "spacing": "x".join(f"{value:.3g}" for value in np.linalg.norm(np.array(header.affine)[:3, :3], axis=0)),
        "orientation": header.orientation + ("" if header.placed else " (assumed)"),
        "dtype": header.dtype,
        "slices": len(plan),
        "problem": "",
    }


def _no_slices(card: Card, header: Header) -> str:
    wanted, axis = card.slices, AXES[card.slices.axis]
    start, stop = ("" if end is None else f"{end:g}" for end in (wanted.start, wanted.stop))
    length = header.shape[axis] * header.spacing[axis]
    return (
        f"has no {wanted.axis} slice in [{start}, {stop}) by {wanted.by}: it has {header.shape[axis]} slices, "
        f"{length:.1f} mm in all"
    )
