"""Where a writer's rows go: a folder of `.npy` files, or one HDF5 file.

Either keeps a journal of the rows that are done, so that another writer can go on where one was stopped.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..atomic import replacing, write_json
from .layout import JOURNAL_KEYS, Level, StoreInfo, level_folder, lookup
from .names import MANIFEST_COLUMNS

Arrays = dict[str, NDArray[Any]]
JOURNAL = "journal.json"  # of a folder; an HDF5 file has attributes
HDF5_OVERHEAD = 64 * 1024  # room for chunk indices and attributes of one write
CHUNK_BYTES = 128 * 1024  # of an HDF5 dataset: between 64 and 256 KiB reads well both in whole and in part
CHUNK_ROWS = 4096  # at most: rows wait in memory until their chunk is full, and a killed process loses them


class NpyFiles:
    """A folder with a file for each row, in a subfolder for each level where there are several."""

    def __init__(
        self, folder: Path, info: StoreInfo, manifest: pd.DataFrame, codebooks: Arrays, journal: dict[str, Any]
    ) -> None:
        self._folder, self._info, self._codebooks, self._journal = folder, info, codebooks, journal
        self._files = manifest["file"].tolist()
        self.rows_done = int(journal_of(folder).get("rows_done", 0))
        if (folder / JOURNAL).exists():
            return
        for level in info.levels:
            own = level_folder(folder, info, level.name)
            for shard in sorted({Path(file).parent for file in self._files}):
                (own / shard).mkdir(parents=True, exist_ok=True)
            if level.name in codebooks:
                codebook = codebooks[level.name]
                codebook = codebook[0] if level.depth == 1 else codebook
                (own / "codebook.npy").write_bytes(_npy_header(codebook) + codebook.tobytes())
        describe_folder(folder, info, manifest, journal | {"rows_done": 0})

    def append(self, arrays: Arrays) -> None:
        """Write the next rows, see `CodeWriter.write`."""
        count = 0
        for level in self._info.levels:
            folder = level_folder(self._folder, self._info, level.name)
            array = arrays[level.name]
            count = len(array)
            if self._info.content == "vectors":
                array = lookup(self._codebooks[level.name], array)
            array = np.ascontiguousarray(
                array.reshape(count, *level.shape(self._info.content)), level.dtype(self._info.content)
            )
            header = _npy_header(array[0])
            for name, row in zip(self._files[self.rows_done : self.rows_done + count], array, strict=True):
                with open(folder / name, "wb", buffering=0) as file:  # noqa: PTH123 - the fastest of the ways to write
                    file.write(header + row.tobytes())
        self.rows_done += count
        write_json(self._folder / JOURNAL, self._journal | {"rows_done": self.rows_done})

    def close(self) -> None:
        """Nothing is held open."""


class HDF5File:
    """One file, whose chunks are written whole.

    A chunk that is filled bit by bit is compressed anew each time, and what it was before stays behind as a gap: with
    batches of 250 rows in chunks of 1,024 the file was 1.6 times as large.
    """

    def __init__(
        self, path: Path, info: StoreInfo, manifest: pd.DataFrame, codebooks: Arrays, journal: dict[str, Any]
    ) -> None:
        self._info, self._path = info, path
        self._stored = info.hdf5_content
        fresh = not path.exists()
        if fresh:
            path.touch()
            reserve(path, len(manifest.to_csv()) + sum(book.nbytes for book in codebooks.values()))
        self._file = h5py.File(path, "w" if fresh else "r+")
        if fresh:
            describe_file(self._file, info, manifest, codebooks, journal | {"rows_done": 0})
            for level in info.levels:
                self._create(level, len(manifest))
            self._file.flush()
        self.rows_done = int(json.loads(self._file.attrs["rows_done"]))
        self._waiting: dict[str, list[NDArray[Any]]] = {level.name: [] for level in info.levels}
        self._written = {level.name: self.rows_done for level in info.levels}  # rows of each level in its chunks

    def _create(self, level: Level, count: int) -> None:
        shape, dtype = level.shape(self._stored), level.dtype(self._stored)
        row = int(np.prod(shape)) * dtype.itemsize
        rows = max(1, min(count, CHUNK_ROWS, CHUNK_BYTES // row))
        self._file.create_dataset(
            f"levels/{level.name}/{self._stored}",
            shape=(count, *shape),
            dtype=dtype,
            chunks=(rows, *shape),
            shuffle=True,
            compression="gzip",
            compression_opts=1,
        )

    def append(self, arrays: Arrays) -> None:
        """Take the next rows, see `CodeWriter.write`, and write the chunks that they fill."""
        for level in self._info.levels:
            array = arrays[level.name]
            self._waiting[level.name].append(array.reshape(len(array), *level.shape(self._stored)))
        self._write(partly=False)

    def close(self) -> None:
        """Write also what fills no chunk: the end of the store, or of what an interrupted writer was given."""
        try:
            self._write(partly=True)
        finally:
            self._file.close()

    def _write(self, *, partly: bool) -> None:
        """Write the chunks that are full by now, and with `partly` what is left over too; then the journal."""
        for name, waiting in self._waiting.items():
            dataset, done = self._file[f"levels/{name}/{self._stored}"], self._written[name]
            stop = done + sum(map(len, waiting))
            if not partly and stop < len(dataset):
                stop -= stop % dataset.chunks[0]
            if stop <= done:
                continue
            rows = np.concatenate(waiting)
            reserve(self._path, rows[: stop - done].nbytes)
            dataset[done:stop] = rows[: stop - done]
            self._waiting[name], self._written[name] = [rows[stop - done :]], stop
        done = min(self._written.values())
        if done > self.rows_done:  # a level that is ahead is written again after a stop, with the same rows
            self.rows_done = done
            self._file.attrs["rows_done"] = json.dumps(done)
            self._file.flush()


def reserve(path: Path, data: int) -> None:
    """Make sure that the file can grow by `data` bytes and HDF5's own, where the system can tell.

    A disk that fills up inside the HDF5 library leaves it unable to close the file, and may bring the process down.
    Asked beforehand, it is a plain OSError, and the file stays readable up to its journal.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), data + HDF5_OVERHEAD)


def describe_folder(folder: Path, info: StoreInfo, manifest: pd.DataFrame, journal: Mapping[str, Any]) -> None:
    """Write what stands beside the `.npy` files, the journal last."""
    with replacing(folder / "manifest.csv") as temporary:
        manifest.to_csv(temporary, index=False)
    write_json(folder / "meta.json", info.to_json())
    write_json(folder / JOURNAL, journal)


def describe_file(
    file: h5py.File, info: StoreInfo, manifest: pd.DataFrame, codebooks: Arrays, journal: Mapping[str, Any]
) -> None:
    """Write all of an HDF5 store but the codes themselves."""
    for key, value in {**info.to_json(), **journal}.items():
        file.attrs[key] = json.dumps(value, allow_nan=False)
    for name in MANIFEST_COLUMNS:
        file.create_dataset(name, data=manifest[name].to_numpy(object), dtype=h5py.string_dtype())
    for name, codebook in codebooks.items():
        file.create_dataset(f"levels/{name}/codebook", data=codebook)


def journal_of(path: Path) -> dict[str, Any]:
    """The journal of a store on disk, finished or not; empty where there is none that can be read."""
    try:
        if path.is_dir():
            return dict(json.loads((path / JOURNAL).read_text()))
        with h5py.File(path, "r") as file:
            return {key: json.loads(file.attrs[key]) for key in JOURNAL_KEYS if key in file.attrs}
    except (OSError, ValueError, KeyError):
        return {}


def _npy_header(row: NDArray[Any]) -> bytes:
    """The header that all .npy files of this shape share. (`np.save` itself hides why a write failed.)"""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(row))
    return buffer.getvalue()
