"""Writing a code store: in a thread of its own, resumable, and whole or absent.

The store grows under `<path>.partial` with a journal of the rows that are done; the finished one takes its name in
one step. A writer with the same model, manifest, content and format goes on where an interrupted one stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import queue
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..atomic import output_folder, replacing, write_json
from ..errors import ToolkitError
from .columns import write_column
from .layout import JOURNAL_KEYS, StoreInfo, level_folder, lookup
from .names import MANIFEST_COLUMNS

Arrays = dict[str, NDArray[Any]]
JOURNAL = "journal.json"  # of a folder; an HDF5 file has attributes
QUEUED = 8  # batches that may wait for the disk: enough to overlap, little enough to keep memory flat
HDF5_OVERHEAD = 64 * 1024  # room for chunk indices and attributes of one batch
HASHED = 10_000  # rows of a manifest that are text at a time
CHUNK_BYTES = 128 * 1024  # of an HDF5 dataset: between 64 and 256 KiB reads well both in whole and in part


class CodeWriter:
    """Writes a store row by row in manifest order.

    Args:
        path: a folder for `npy`, a file for `h5`.
        format: `npy` or `h5`.
        info: metadata; `info.content` decides what `write` takes.
        manifest: from `manifest_of`, one row for each sample.
        codebooks: level name -> (R, K, D) float32; empty for latents without a codebook.
        overwrite: replace a finished store. Otherwise one of the same codes is left as it is.
        part: of a shard, which part of which store it is; kept in the journal (see shards.py).

    Raises:
        ToolkitError: a store of other codes is there and `overwrite` is off, or the place cannot be written to.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: str,
        info: StoreInfo,
        manifest: pd.DataFrame,
        codebooks: Arrays,
        overwrite: bool = False,
        part: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.info, self.rows = path, info, len(manifest)
        self._partial = path.with_name(f"{path.name}.partial")
        own = fingerprint(format, info, manifest)
        self.finished = is_finished(path, own, overwrite=overwrite)
        if self.finished:
            self.rows_done = self.rows
            return
        output_folder(path.parent)
        if journal_of(self._partial).get("fingerprint") != own:
            remove(self._partial)
        sink: type[_NpyFiles | _HDF5File] = _HDF5File if format == "h5" else _NpyFiles
        self._sink = sink(
            self._partial, info, manifest, codebooks, {"fingerprint": own, **({"shard": dict(part)} if part else {})}
        )
        self.rows_done = self._sink.rows_done
        self._next = self.rows_done
        self._error: BaseException | None = None
        self._queue: queue.Queue[Arrays | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._work, name="code-writer", daemon=True)
        self._thread.start()

    def write(self, arrays: Arrays) -> None:
        """Hand over the next rows: level name -> indices (n, R, h, w), or latents (n, D, h, w) for content latents."""
        if self._error:
            raise self._error
        for level in self.info.levels:
            wanted = (level.dim, level.height, level.width)
            if self.info.content != "latents":
                wanted = (level.depth, level.height, level.width)
            assert arrays[level.name].shape[1:] == wanted, (level, arrays[level.name].shape)
        self._next += len(next(iter(arrays.values())))
        self._queue.put(arrays)

    def __enter__(self) -> CodeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finished:
            return
        self._queue.put(None)
        self._thread.join()
        self._sink.close()
        if self._error and kind is None:
            raise self._error
        if kind is None:
            assert self._next == self.rows, f"{self._next} of {self.rows} rows were written"
            remove(self.path)
            self._partial.replace(self.path)
            self.rows_done, self.finished = self.rows, True

    def _work(self) -> None:
        while (arrays := self._queue.get()) is not None:
            if self._error is None:  # after a failure the queue is only drained, so that nobody waits for ever
                try:
                    self._sink.append(arrays)
                except BaseException as error:
                    self._error = error


class _NpyFiles:
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


class _HDF5File:
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
        text = sum(len(cell) for name in MANIFEST_COLUMNS for cell in manifest[name])
        reserve(path, text + sum(book.nbytes for book in codebooks.values()))
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
                shuffle=True,
                compression="gzip",
                compression_opts=1,
            )
        self._file.flush()

    def append(self, arrays: Arrays) -> None:
        reserve(self._path, sum(array.nbytes for array in arrays.values()))
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
        self._file.close()


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
        write_column(file, manifest[name])
    for name, codebook in codebooks.items():
        file.create_dataset(f"levels/{name}/codebook", data=codebook)


def fingerprint(format: str, info: StoreInfo, manifest: pd.DataFrame) -> str:
    """One hash over everything that decides what is written."""
    levels = [vars(level) for level in info.levels]
    hasher = hashlib.sha256(json.dumps([format, info.content, info.model_hash, levels]).encode())
    for start in range(0, max(1, len(manifest)), HASHED):  # block by block: the text of a million rows takes 200 MB
        block = manifest.iloc[start : start + HASHED]
        hasher.update(block.to_csv(index=False, header=start == 0).encode())
    return hasher.hexdigest()


def journal_of(path: Path) -> dict[str, Any]:
    """The journal of a store on disk, finished or not; empty where there is none that can be read."""
    try:
        if path.is_dir():
            return dict(json.loads((path / JOURNAL).read_text()))
        with h5py.File(path, "r") as file:
            return {key: json.loads(file.attrs[key]) for key in JOURNAL_KEYS if key in file.attrs}
    except (OSError, ValueError, KeyError):
        return {}


def is_finished(path: Path, own: str, *, overwrite: bool) -> bool:
    """Whether the store with the fingerprint `own` stands at `path`; if not, it may be written there.

    Raises:
        ToolkitError: something else is there, and `overwrite` is off or would not be right.
    """
    if not overwrite and journal_of(path).get("fingerprint") == own:
        return True
    if not _replaceable(path):
        raise ToolkitError(
            f"{path} exists and is no code store, so it is not replaced: choose another --out, such as "
            f"{path.with_name(path.name + '-codes')}"
        )
    if path.exists() and not (path.is_dir() and not any(path.iterdir())) and not overwrite:
        raise ToolkitError(
            f"{path} exists and holds other codes (another model, other images or another content): "
            "choose another --out, or give --overwrite to replace it"
        )
    return False


def _replaceable(path: Path) -> bool:
    """Nothing, an empty folder, or a code store, whole or damaged. Whatever else it is, is never deleted."""
    if path.is_dir():
        return not any(path.iterdir()) or (path / JOURNAL).is_file() or (path / "meta.json").is_file()
    return not path.exists() or h5py.is_hdf5(path) or path.suffix in (".h5", ".hdf5")


def _npy_header(row: NDArray[Any]) -> bytes:
    """The header that all .npy files of this shape share. (`np.save` itself hides why a write failed.)"""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(row))
    return buffer.getvalue()


def remove(path: Path) -> None:
    """Delete the file or the folder at `path`, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
