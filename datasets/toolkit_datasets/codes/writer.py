"""Writing a code store: in a thread of its own, resumable, and whole or absent.

The store grows under `<path>.partial` with a journal of the rows that are done; the finished one takes its name in
one step. A writer with the same model, manifest, content and format goes on where an interrupted one stopped.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import pandas as pd

from ..atomic import output_folder, remove
from ..errors import ToolkitError
from .layout import StoreInfo
from .shard_files import remove_shards, shards_read
from .sinks import JOURNAL, Arrays, HDF5File, NpyFiles, journal_of

QUEUED = 8  # batches that may wait for the disk: enough to overlap, little enough to keep memory flat
HASHED = 10_000  # rows of a manifest that are text at a time


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
        sink: type[NpyFiles | HDF5File] = HDF5File if format == "h5" else NpyFiles
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
            replaced = shards_read(self.path)
            remove(self.path)
            self._partial.replace(self.path)
            remove_shards(self.path, replaced)
            self.rows_done, self.finished = self.rows, True

    def _work(self) -> None:
        while (arrays := self._queue.get()) is not None:
            if self._error is None:  # after a failure the queue is only drained, so that nobody waits for ever
                try:
                    self._sink.append(arrays)
                except BaseException as error:
                    self._error = error


def fingerprint(format: str, info: StoreInfo, manifest: pd.DataFrame) -> str:
    """One hash over everything that decides what is written."""
    levels = [vars(level) for level in info.levels]
    hasher = hashlib.sha256(json.dumps([format, info.content, info.model_hash, levels]).encode())
    for start in range(0, max(1, len(manifest)), HASHED):  # block by block: the text of a million rows takes 200 MB
        block = manifest.iloc[start : start + HASHED]
        hasher.update(block.to_csv(index=False, header=start == 0).encode())
    return hasher.hexdigest()


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
