"""Decode once: every image of a source as one row of a memory-mapped uint8 array.

A file gives one row, or several that follow each other: the slices of a volume, which is read once for all of them.
The array is written block by block with a journal beside it, so an interrupted run goes on where it stopped and
memory stays flat. Its key holds the recipe and every file's name, size and time: whatever changes, it is made anew.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import card_data as cards
from .atomic import output_folder
from .errors import ToolkitError
from .images import EMPTY, Decoded, Unreadable
from .locks import locked
from .progress import Progress

DECODER = 3  # raise when decoding changes, so that older arrays are not reused
BLOCK_BYTES = 16 * 2**20  # decoded before it is written, with its lines of the journal
TASK_ROWS = 16  # that a thread decodes in one go: handing small pictures over one by one costs 50 µs each
BLOCK_ROWS = 4096  # of them at most: of a small image 1 kB waits in the thread's results until its block is written
COLUMNS = ("status", "sha256", "pixels", "mode", "width", "height", "position", "window", "foreground")
# `pixels`: hash of the decoded image; the others as in `Decoded`
Entry = tuple[str, ...]  # of COLUMNS
Decode = Callable[[str, Sequence[str]], Sequence[Decoded | Unreadable]]


@dataclass(frozen=True)
class Decodings:
    """The decoded images of a source."""

    images: NDArray[np.uint8]  # memory map (N, H, W, C); rows that did not decode are zeros
    details: pd.DataFrame  # COLUMNS, one row for each image; status "ok" or the reason


def cache_folder() -> Path:
    """Where decoded arrays live: $TOOLKIT_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("TOOLKIT_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vqvae-toolkit"


def stamp(root: Path, name: str) -> str:
    """Size and time of change of the file `name` below `root`; "missing" for a dangling link: `decode` says why."""
    try:
        stat = os.stat(f"{root}/{name}")  # noqa: PTH116 - joining a `Path` takes longer than the answer
    except OSError:
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def decoded(
    names: Sequence[str],
    slices: Sequence[str],
    decode: Decode,
    *,
    stamps: Callable[[Sequence[str]], Sequence[str]],
    recipe: Mapping[str, Any],
    geometry: cards.Image,
    origin: str,
    fail_fast: bool,
    workers: int | None,
    progress: Progress,
) -> Decodings:
    """The decoded array of the named images, from the cache or made now.

    Args:
        names: of the file of each row; rows of one file follow each other.
        slices: of the file, one for each row; "" where the file is one picture.
        decode: file, its slices -> a result for each, or raises `Unreadable`. Called from several threads.
        stamps: files -> what tells a changed one from an unchanged one.
        recipe: all settings of `decode` that decide the pixels.
        geometry: of the result.
        origin: the source's place, part of the key.
        fail_fast: stop at the first image that does not decode.
        workers: threads; None for one per core (Pillow decodes outside Python's lock).
        progress: shows a bar while decoding.

    Raises:
        ToolkitError: an image did not decode and `fail_fast` is on.
    """
    try:
        folder = output_folder(cache_folder())
    except ToolkitError:
        raise ToolkitError(
            f"decoded images cannot be kept in {cache_folder()}: it cannot be written to. "
            "Name a folder that can in the environment variable TOOLKIT_CACHE"
        ) from None
    files = _files(names, slices)
    key = _key(files, stamps([file.name for file in files]), recipe, origin)
    array, table = folder / f"{key}.npy", folder / f"{key}.csv"
    with locked(folder / f"{key}.lock"):
        if not (array.is_file() and table.is_file()):
            _decode_all(files, decode, geometry, array, table, fail_fast=fail_fast, workers=workers, progress=progress)
    details = pd.read_csv(table, dtype=str, keep_default_na=False)
    if fail_fast and (bad := details.index[is_fault(details["status"])]).size:
        raise _stopped(names[bad[0]], details["status"][bad[0]])
    return Decodings(np.load(array, mmap_mode="r", allow_pickle=False), details)


@dataclass(frozen=True, slots=True)
class _File:
    """A file and its rows."""

    name: str
    slices: tuple[str, ...]


def _files(names: Sequence[str], slices: Sequence[str]) -> list[_File]:
    rows = groupby(zip(names, slices, strict=True), key=itemgetter(0))
    return [_File(name, tuple(piece for _, piece in members)) for name, members in rows]


def _blocks(files: Sequence[_File], rows: int) -> list[list[_File]]:
    """Whole files in order, in blocks of at least `rows` rows; the last block takes what is left."""
    blocks: list[list[_File]] = []
    room = 0
    for file in files:
        if room <= 0:
            blocks.append([])
            room = rows
        blocks[-1].append(file)
        room -= len(file.slices)
    return blocks


def _decode_all(
    files: Sequence[_File],
    decode: Decode,
    geometry: cards.Image,
    array: Path,
    table: Path,
    *,
    fail_fast: bool,
    workers: int | None,
    progress: Progress,
) -> None:
    shape = (geometry.size, geometry.size, geometry.channels)
    row_bytes = int(np.prod(shape))
    blocks = _blocks(files, max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes)))
    sizes = [sum(len(file.slices) for file in block) for block in blocks]
    partial_array, partial_table = array.with_suffix(".npy.partial"), table.with_suffix(".csv.partial")
    header = {"descr": "|u1", "fortran_order": False, "shape": (sum(sizes), *shape)}
    with partial_array.open("r+b" if partial_array.exists() else "w+b") as pixels:
        finished = _resume_at(partial_table, sizes) if pixels.seek(0, os.SEEK_END) else 0
        done = sum(sizes[:finished])
        pixels.seek(0)
        np.lib.format.write_array_header_1_0(pixels, header)
        pixels.seek(done * row_bytes, os.SEEK_CUR)
        unit = "slices" if any(file.slices != ("",) for file in files) else "images"
        with (
            partial_table.open("a" if done else "w", encoding="utf-8", newline="") as journal,
            ThreadPoolExecutor(workers or os.cpu_count()) as pool,
            progress.bar("decode", sum(sizes), unit, done=done) as bar,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters becomes a status
            lines = csv.writer(journal, lineterminator="\n")
            if not done:
                lines.writerow(COLUMNS)
            for block, size in zip(blocks[finished:], sizes[finished:], strict=True):
                rows = np.empty((size, row_bytes), np.uint8)  # filled by the threads, each its own part
                tasks = _blocks(block, TASK_ROWS)
                starts = np.cumsum([0] + [sum(len(file.slices) for file in task) for task in tasks])
                parts = [rows[start:stop] for start, stop in itertools.pairwise(starts)]
                entries: list[Entry] = []
                for found in pool.map(lambda task, part: _decode_some(decode, task, part), tasks, parts):
                    for name, entry in found:
                        if fail_fast and entry[0] != "ok" and not entry[0].startswith(EMPTY):
                            raise _stopped(name, entry[0])
                        entries.append(entry)
                    bar.update(len(found))
                pixels.write(rows.data)
                pixels.flush()
                lines.writerows(entries)  # after the pixels, for which they vouch
                journal.flush()
    partial_table.replace(table)
    partial_array.replace(array)


def _decode_some(decode: Decode, files: Sequence[_File], rows: NDArray[np.uint8]) -> list[tuple[str, Entry]]:
    """Decode files into `rows` (n, H W C), all of one thread's work; their names, and entries in the journal."""
    found: list[tuple[str, Entry]] = []
    for file in files:
        try:
            results = decode(file.name, file.slices)
        except Unreadable as error:
            results = [error] * len(file.slices)
        for result in results:
            found.append((file.name, _entry(result, rows[len(found)])))
    return found


def _entry(result: Decoded | Unreadable, row: NDArray[np.uint8]) -> Entry:
    """A picture's entry in the journal; its pixels go into `row` (H W C), zeros where there are none."""
    if isinstance(result, Unreadable):
        row[:] = 0
        return (str(result), *[""] * (len(COLUMNS) - 1))
    row[:] = result.pixels.reshape(-1)
    pixel_hash = hashlib.sha256(row.data).hexdigest()[:32]
    stored = (str(result.width), str(result.height), result.position, result.window, result.foreground)
    return ("ok", result.sha256, pixel_hash, result.mode, *stored)


def _resume_at(journal: Path, sizes: Sequence[int]) -> int:
    """How many blocks an interrupted run finished; whole ones only, since the last line may be cut."""
    try:
        rows = len(pd.read_csv(journal, dtype=str, keep_default_na=False))
    except (OSError, ValueError):
        return 0
    finished = int(np.searchsorted(np.cumsum(sizes), rows, side="right"))
    done = sum(sizes[:finished])
    pd.read_csv(journal, dtype=str, keep_default_na=False, nrows=done).to_csv(journal, index=False)
    return finished


def _stopped(name: str, reason: str) -> ToolkitError:
    return ToolkitError(f"{name}: {reason}. Remove or mend it, or leave out --fail-fast to skip and list such files.")


def is_fault(status: pd.Series[Any]) -> pd.Series[Any]:
    """Which samples should decode and do not; an empty slice is left out as well, but is nobody's fault."""
    return (status != "ok") & ~status.str.startswith(EMPTY)


def _key(files: Sequence[_File], stamps: Sequence[str], recipe: Mapping[str, Any], origin: str) -> str:
    listed = [(file.name, stamp, *file.slices) for file, stamp in zip(files, stamps, strict=True)]
    text = json.dumps([DECODER, origin, dict(recipe), listed])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
