"""Rows of start-up: how long a command takes that computes nothing, against what was promised."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from measure import Row, quietly, seconds, toolkit
from probing import write_store

HELP, INFO = 0.3, 1.0  # seconds, promised
REPEATS = 7


def rows(folder: Path) -> list[Row]:
    """Rows of start-up; no pictures needed."""
    found = [promised("help", "`toolkit --help`", toolkit("--help"), HELP, bare="import click")]
    with tempfile.TemporaryDirectory() as place:
        for name, kind in (("codes.h5", "an HDF5 file"), ("codes", "a folder of `.npy` files")):
            store = Path(place) / name
            write_store(store)
            what = f"`toolkit info` of 25,000 samples in {kind}"
            found.append(
                promised(f"info-{name}", what, toolkit("info", store), INFO, bare="import h5py, pandas, pydantic")
            )
    return found


def promised(name: str, what: str, command: Sequence[str], limit: float, *, bare: str) -> Row:
    """A command against the time that was promised; the note says what its imports alone take."""
    quietly(command)  # so that all files are in the system's cache
    times = [seconds(lambda: quietly(command)) for _ in range(REPEATS)]
    imports = statistics.median(seconds(lambda: quietly([sys.executable, "-c", bare])) for _ in range(REPEATS))
    return Row(
        name,
        f"{what}, against the promise of {limit:g} s",
        f"{statistics.median(times):.2f} s",
        f"{limit:g} s",
        tuple(limit / each for each in times),
        target=1.0,
        note=f"`python -c '{bare}'` alone takes {imports:.2f} s.",
    )
