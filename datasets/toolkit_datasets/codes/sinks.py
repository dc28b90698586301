"""Where a writer's rows go: a folder of `.npy` files, or one HDF5 file.

Either keeps a journal of the rows that are done, so that another writer can go on where one was stopped.
"""

from __future__ import annotations

import errno
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
from .columns import write_column
from .layout import JOURNAL_KEYS, StoreInfo, level_folder, lookup
from .names import MANIFEST_COLUMNS

Arrays = dict[str, NDArray[Any]]
JOURNAL = "journal.json"  # of a folder; an HDF5 file has attributes
HDF5_OVERHEAD = 64 * 1024  # room for chunk indices and attributes of one batch
CHUNK_BYTES = 128 * 1024  # of an HDF5 dataset: between 64 and 256 KiB reads well both in whole and in part
COMPRESSED: dict[str, Any] = {"shuffle": True, "compression": "gzip", "compression_opts": 1}  # the fastest level


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
            for shard in sorted({file.rpartition("/")[0] for file in self._files}):
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
            header = np.frombuffer(_npy_header(array[0]), np.uint8)
            content = array.reshape(count, -1).view(np.uint8)
            records = np.empty((count, len(header) + content.shape[1]), np.uint8)
            records[:, : len(header)], records[:, len(header) :] = header, content
            for name, record in zip(self._files[self.rows_done : self.rows_done + count], records, strict=True):
                _write_file(f"{folder}/{name}", record)
        self.rows_done += count
        write_json(self._folder / JOURNAL, self._journal | {"rows_done": self.rows_done})

    def close(self) -> None:
        """Nothing is held open."""


class HDF5File:
    """One file with a dataset for each level."""

    def __init__(
        self, path: Path, info: StoreInfo, manifest: pd.DataFrame, codebooks: Arrays, journal: dict[str, Any]
    ) -> None:
        self._info, self._path = info, path
        self._stored = info.hdf5_content
        if path.exists():
            self._file = h5py.File(path, "r+")
            self.rows_done = int(json.loads(self._file.attrs["rows_done"]))
            return
        path.touch()
        texts = sum(len(text) for name in MANIFEST_COLUMNS for text in manifest[name])
        _reserve(path, 0, texts + sum(book.nbytes for book in codebooks.values()))
        self._file = h5py.File(path, "w")
        self.rows_done = 0
        describe_file(self._file, info, manifest, codebooks, journal | {"rows_done": 0})
        for level in info.levels:
            shape, dtype = level.shape(self._stored), level.dtype(self._stored)
            row = int(np.prod(shape)) * dtype.itemsize
            rows = max(1, min(len(manifest), CHUNK_BYTES // row))
            self._file.create_dataset(
                f"levels/{level.name}/{self._stored}",
                shape=(len(manifest), *shape),
                dtype=dtype,
                chunks=(rows, *shape),
                **COMPRESSED,
            )
        self._file.flush()

    def append(self, arrays: Arrays) -> None:
        """Write the next rows, see `CodeWriter.write`."""
        _reserve(self._path, self._file.id.get_filesize(), sum(array.nbytes for array in arrays.values()))
        count = 0
        for level in self._info.levels:
            array = arrays[level.name]
            count = len(array)
            dataset = self._file[f"levels/{level.name}/{self._stored}"]
            dataset[self.rows_done : self.rows_done + count] = array.reshape(count, *level.shape(self._stored))
        self.rows_done += count
        self._file.attrs["rows_done"] = json.dumps(self.rows_done)
        self._file.flush()

    def close(self) -> None:
        """Close the file, and give back what was reserved and not used."""
        self._file.close()
        h5py.File(self._path, "r+").close()  # cuts it where its content ends: HDF5 asks for its length when it opens it


def _reserve(path: Path, end: int, data: int) -> None:
    """Make sure that the file can grow from `end` by `data` bytes and HDF5's own, where the system can tell.

    A disk that fills up inside the HDF5 library leaves it unable to close the file, and may bring the process down.
    Asked beforehand, it is a plain OSError, and the file stays readable up to its journal.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), end, data + HDF5_OVERHEAD)


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
        write_column(file, manifest[name])
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


def _write_file(path: str, content: NDArray[np.uint8]) -> None:
    """Write a small file by three system calls and nothing else: 40 µs of processor, half of it the system's."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        if os.write(file, content.data) < len(content):  # what fits is taken; only the next write fails
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)


def _npy_header(row: NDArray[Any]) -> bytes:
    """The header that all .npy files of this shape share. (`np.save` itself hides why a write failed.)"""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(row))
    return buffer.getvalue()
