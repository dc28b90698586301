"""Decode once: every image of a source as one row of a memory-mapped uint8 array.

The array is written block by block with a journal beside it, so an interrupted run goes on where it stopped and
memory stays flat. Its key holds the geometry and every file's name, size and time: whatever changes, it is made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from . import card as cards
from .atomic import output_folder
from .errors import ToolkitError
from .images import Decoded, Unreadable
from .progress import Progress

DECODER = 1  # raise when decoding changes, so that older arrays are not reused
BLOCK_BYTES = 16 * 2**20  # decoded between two entries of the journal
COLUMNS = ("status", "sha256", "pixels", "mode", "width", "height")  # `pixels`: hash of the decoded image


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


def decoded(
    names: Sequence[str],
    stamps: Sequence[str],
    decode: Callable[[str], Decoded],
    *,
    geometry: cards.Image,
    origin: str,
    fail_fast: bool,
    workers: int | None,
    progress: Progress,
) -> Decodings:
    """The decoded array of the named images, from the cache or made now.

    Args:
        names: what `decode` takes, one for each image.
        stamps: what tells a changed file from an unchanged one, one for each image.
        decode: name -> `Decoded`, or raises `Unreadable`. Called from several threads.
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
    key = _key(names, stamps, geometry, origin)
    array, table = folder / f"{key}.npy", folder / f"{key}.csv"
    with _locked(folder / f"{key}.lock"):
        if not (array.is_file() and table.is_file()):
            _decode_all(names, decode, geometry, array, table, fail_fast=fail_fast, workers=workers, progress=progress)
    details = pd.read_csv(table, dtype=str, keep_default_na=False)
    if fail_fast and (bad := details.index[details["status"] != "ok"]).size:
        raise _stopped(names[bad[0]], details["status"][bad[0]])
    return Decodings(np.load(array, mmap_mode="r", allow_pickle=False), details)


def _decode_all(
    names: Sequence[str],
    decode: Callable[[str], Decoded],
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
    block = max(1, BLOCK_BYTES // row_bytes)
    partial_array, partial_table = array.with_suffix(".npy.partial"), table.with_suffix(".csv.partial")
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(names), *shape)}
    with partial_array.open("r+b" if partial_array.exists() else "w+b") as pixels:
        done = _resume_at(partial_table, block) if pixels.seek(0, os.SEEK_END) else 0
        pixels.seek(0)
        np.lib.format.write_array_header_1_0(pixels, header)
        pixels.seek(done * row_bytes, os.SEEK_CUR)
        with (
            partial_table.open("a" if done else "w", encoding="utf-8", newline="") as journal,
            ThreadPoolExecutor(workers or os.cpu_count()) as pool,
            progress.bar("decode", len(names), "images") as bar,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata; what matters becomes a status
            bar.update(done)
            for start in range(done, len(names), block):
                chosen = names[start : start + block]
                rows: list[tuple[str | int, ...]] = []
                for name, result in zip(chosen, pool.map(lambda name: _try(decode, name), chosen), strict=True):
                    if isinstance(result, str):
                        if fail_fast:
                            raise _stopped(name, result)
                        rows.append((result, "", "", "", "", ""))
                        pixels.write(bytes(row_bytes))
                    else:
                        data = result.pixels.tobytes()
                        pixel_hash = hashlib.sha256(data).hexdigest()[:32]
                        rows.append(("ok", result.sha256, pixel_hash, result.mode, result.width, result.height))
                        pixels.write(data)
                    bar.update()
                pixels.flush()
                pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(journal, index=False, header=start == 0)
                journal.flush()
    partial_table.replace(table)
    partial_array.replace(array)


def _try(decode: Callable[[str], Decoded], name: str) -> Decoded | str:
    try:
        return decode(name)
    except Unreadable as error:
        return str(error)


def _resume_at(journal: Path, block: int) -> int:
    """How many images an interrupted run finished; whole blocks only, since the last line may be cut."""
    try:
        done = len(pd.read_csv(journal, dtype=str, keep_default_na=False)) // block * block
    except (OSError, ValueError):
        return 0
    pd.read_csv(journal, dtype=str, keep_default_na=False, nrows=done).to_csv(journal, index=False)
    return done


def _stopped(name: str, reason: str) -> ToolkitError:
    return ToolkitError(f"{name}: {reason}. Remove or mend it, or leave out --fail-fast to skip and list such files.")


def _key(names: Sequence[str], stamps: Sequence[str], geometry: cards.Image, origin: str) -> str:
    text = json.dumps([DECODER, origin, geometry.model_dump(), list(zip(names, stamps, strict=True))])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time decode the same images; where the system has no file locks, let all."""
    with path.open("w") as file:
        _lock(file)
        yield


def _lock(file: IO[Any]) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows, or a network drive without locks
        return
