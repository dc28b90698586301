"""Reading a code store: the same interface for a folder of `.npy` files and for an HDF5 file.

Nothing is trusted: no pickle is loaded, paths may not leave the store, shapes and types must be as announced, and
HDF5 links or virtual sources that point outside the store's folder are refused. The shards that a joined file reads
must be there, unchanged, and hold their own data.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..errors import ToolkitError
from .columns import read_column
from .layout import JOURNAL_KEYS, Level, StoreInfo, level_folder, lookup, match
from .names import MANIFEST_COLUMNS
from .shard_files import shards_folder

Rows = NDArray[np.integer[Any]]


def open_codes(path: Path) -> Codes:
    """Open the store at `path`: a folder written with `--format npy`, or an `.h5` file.

    Raises:
        ToolkitError: nothing there, unfinished, of another format version, or damaged.
    """
    path = Path(path)
    if path.is_dir() and (path / "meta.json").is_file():
        return NpyCodes(path)
    if path.is_file():
        return HDF5Codes(path)
    partial = path.with_name(f"{path.name}.partial")
    if partial.exists():
        raise ToolkitError(f"the code store {path} is unfinished: run the same `toolkit encode` again and it goes on")
    if shards_folder(path).is_dir():
        raise ToolkitError(
            f"the code store {path} is not joined yet: the last of the `toolkit encode --shard` commands does it once "
            f"all are finished, or `toolkit encode RUN --out {path} --join`, which says what is missing"
        )
    for inner in (path / "codes", path / "codes.h5"):
        if inner.exists():
            raise ToolkitError(f"{path} is a run folder; its codes are in {inner}: give that path")
    raise ToolkitError(f"no code store at {path}: write one with `toolkit encode RUN --out {path}`")


class Codes(ABC):
    """A code store, read in pieces: memory grows with the rows asked for, not with the store."""

    path: Path
    info: StoreInfo
    manifest: pd.DataFrame  # columns MANIFEST_COLUMNS, all str; row i is sample i of the store

    def __len__(self) -> int:
        return len(self.manifest)

    @abstractmethod
    def codebook(self, level: str) -> NDArray[np.float32]:
        """The level's codebook, (R, K, D) float32."""

    @abstractmethod
    def stored(self, level: str, rows: Rows | None = None) -> NDArray[Any]:
        """What the files hold, stacked: (n, *level.shape(content)). Row order is that of `rows`."""

    @property
    @abstractmethod
    def stored_content(self) -> str:
        """What the files hold: `vectors`, `indices` or `latents`. HDF5 holds indices even for content `vectors`."""

    def indices(self, level: str, rows: Rows | None = None) -> NDArray[Any]:
        """Code indices (n, R, h, w), uint8 or uint16.

        Raises:
            ToolkitError: the store holds latents, or vectors summed over a residual depth above 1.
        """
        about = self.info.level(level)
        stored = self.stored(level, rows)
        if self.stored_content == "indices":
            return stored.reshape(len(stored), about.depth, about.height, about.width)
        if self.stored_content == "latents":
            raise ToolkitError(f"{self.path} holds latents, which have no indices; encode with --content indices")
        if about.depth > 1:
            raise ToolkitError(
                f"{self.path} holds sums of {about.depth} codes, which cannot be taken apart; "
                "encode with --content indices or --format h5"
            )
        return match(self.codebook(level)[0], stored)[:, None].astype(about.index_dtype)

    def vectors(self, level: str, rows: Rows | None = None) -> NDArray[np.float32]:
        """Quantised vectors z_q (n, D, h, w) float32; for content `latents` the latents before quantisation."""
        stored = self.stored(level, rows)
        if self.stored_content != "indices":
            return stored
        about = self.info.level(level)
        return lookup(self.codebook(level), stored.reshape(len(stored), about.depth, about.height, about.width))

    def _check_manifest(self) -> None:
        for file in self.manifest["file"]:  # plain text: a path object for each took 6 us of every image
            if file.startswith("/") or ".." in file.split("/") or "\\" in file:
                raise ToolkitError(f"{self.path}: the manifest names a file outside the store: {file!r}")

    def _check_codebook(self, about: Level, codebook: NDArray[Any]) -> NDArray[np.float32]:
        wanted = (about.depth, about.codes, about.dim)
        if codebook.ndim == 2:  # stored without its depth of 1
            codebook = codebook[None]
        if codebook.shape != wanted or codebook.dtype != np.float32:
            raise ToolkitError(
                f"{self.path}: the codebook of level {about.name!r} is {codebook.dtype} {codebook.shape}, "
                f"but the metadata says float32 {wanted}"
            )
        return codebook


class NpyCodes(Codes):
    """A folder of `.npy` files with `manifest.csv`, `codebook.npy` and `meta.json`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            data = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            manifest = pd.read_csv(path / "manifest.csv", dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ToolkitError(f"the code store {path} cannot be read: {error}") from None
        self.info = StoreInfo.from_json(data, origin=str(path))
        missing = [column for column in MANIFEST_COLUMNS if column not in manifest]
        if missing:
            raise ToolkitError(f"{path / 'manifest.csv'} lacks the columns {', '.join(missing)}")
        self.manifest = manifest
        self._codebooks: dict[str, NDArray[np.float32]] = {}
        self._check_manifest()

    @property
    def stored_content(self) -> str:
        """As the metadata says."""
        return self.info.content

    def codebook(self, level: str) -> NDArray[np.float32]:
        """The level's codebook, (R, K, D) float32, read once."""
        if level not in self._codebooks:
            about = self.info.level(level)
            self._codebooks[level] = self._check_codebook(about, _load(self._folder(level) / "codebook.npy"))
        return self._codebooks[level]

    def stored(self, level: str, rows: Rows | None = None) -> NDArray[Any]:
        """One `np.load` for each row."""
        about, folder = self.info.level(level), self._folder(level)
        wanted, dtype = about.shape(self.info.content), about.dtype(self.info.content)
        files = self.manifest["file"].to_numpy()
        chosen = files if rows is None else files[rows]
        out = np.empty((len(chosen), *wanted), dtype)
        for place, file in enumerate(chosen):
            array = _load(folder / file)
            if array.shape != wanted or array.dtype != dtype:
                raise ToolkitError(
                    f"{folder / file} holds {array.dtype} {array.shape}, but this store's files are {dtype} {wanted}: "
                    "encode again with --overwrite"
                )
            out[place] = array
        return out

    def _folder(self, level: str) -> Path:
        return level_folder(self.path, self.info, level)


class HDF5Codes(Codes):
    """One HDF5 file. It is opened for each read, so the object may be pickled, forked and shared."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            self._refuse_outside(file)
            try:
                data = {key: json.loads(str(file.attrs[key])) for key in file.attrs if key not in JOURNAL_KEYS}
                columns = {name: read_column(file[name]) for name in MANIFEST_COLUMNS}
            except (KeyError, ValueError, TypeError) as error:
                raise ToolkitError(f"{path} is an HDF5 file but no code store: {error}") from None
            self.info = StoreInfo.from_json(data, origin=str(path))
            for level in self.info.levels:
                name = f"levels/{level.name}/{self.stored_content}"
                wanted = (len(columns["id"]), *level.shape(self.stored_content))
                if (
                    name not in file
                    or file[name].shape != wanted
                    or file[name].dtype != level.dtype(self.stored_content)
                ):
                    raise ToolkitError(
                        f"{path}: {name} is missing or is not {level.dtype(self.stored_content)} {wanted}"
                    )
        self.manifest = pd.DataFrame(columns, dtype=object)
        self._check_manifest()

    @property
    def stored_content(self) -> str:
        """Latents, else indices: vectors are computed from them."""
        return self.info.hdf5_content

    def codebook(self, level: str) -> NDArray[np.float32]:
        """The level's codebook, (R, K, D) float32."""
        about = self.info.level(level)
        with self._open() as file:
            return self._check_codebook(about, file[f"levels/{level}/codebook"][:])

    def stored(self, level: str, rows: Rows | None = None) -> NDArray[Any]:
        """One pass over the chunks that hold the rows."""
        with self._open() as file:
            dataset = file[f"levels/{self.info.level(level).name}/{self.stored_content}"]
            if rows is None:
                return np.asarray(dataset[:])
            if len(rows) == 0:
                return np.asarray(dataset[:0])
            # h5py's own list selection takes milliseconds a row; one contiguous read of the span is far quicker as
            # long as the rows lie close together, and a sorted walk in blocks keeps it bounded where they do not.
            unique, back = np.unique(np.asarray(rows), return_inverse=True)
            out = np.empty((len(unique), *dataset.shape[1:]), dataset.dtype)
            step = max(1, dataset.chunks[0] if dataset.chunks else 1024)
            blocks = unique // step
            starts = np.flatnonzero(np.r_[True, blocks[1:] != blocks[:-1]])
            for start, stop in zip(starts, np.r_[starts[1:], len(unique)], strict=True):
                first = int(blocks[start]) * step
                out[start:stop] = dataset[first : first + step][unique[start:stop] - first]
            return np.asarray(out[back])

    def _open(self) -> h5py.File:
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            raise ToolkitError(
                f"{self.path} is no readable HDF5 file ({error}): was it cut short? Encode again with --overwrite."
            ) from None

    def _refuse_outside(self, file: h5py.File) -> None:
        folder = self.path.resolve().parent
        shards: set[str] = set()
        for item in self._datasets(file):
            shards |= {source.file_name for source in item.virtual_sources()} if item.is_virtual else set()
            for source in [source[0] for source in item.external or []] + sorted(shards):
                name = source.decode() if isinstance(source, bytes) else source
                if name != "." and folder not in (folder / name).resolve().parents:
                    raise ToolkitError(f"{self.path}: {item.name} reads {name}, outside the store's folder")
        recorded = json.loads(file.attrs.get("shards", "{}"))
        for name in sorted(shards - {"."}):
            self._check_shard(folder / name, recorded.get(name))

    def _datasets(self, file: h5py.File) -> list[h5py.Dataset]:
        """All datasets of a file, which may hold no links."""
        found: list[h5py.Dataset] = []

        def visit(group: h5py.Group) -> None:
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ToolkitError(f"{file.filename}: {group.name}/{name} is a link; a code store may not hold any")
                item = group[name]
                visit(item) if isinstance(item, h5py.Group) else found.append(item)

        visit(file)
        return found

    def _check_shard(self, path: Path, wanted: str | None) -> None:
        """HDF5 reads zeros where a source is missing, and whatever is there where it was replaced."""
        again = f"encode it again with `toolkit encode RUN --out {self.path} --shard …`"
        if not path.is_file():
            raise ToolkitError(f"{self.path} reads {path}, which is missing: copy it there, or {again}")
        try:
            with h5py.File(path, "r") as file:
                for item in self._datasets(file):
                    if item.is_virtual or item.external:
                        raise ToolkitError(f"{path}: {item.name} reads other files; a shard must hold its own data")
                found = json.loads(file.attrs.get("fingerprint", "null"))
        except (OSError, ValueError) as error:
            raise ToolkitError(f"{path} is no readable shard ({error}): {again}") from None
        if found is None or found != wanted:
            raise ToolkitError(f"{path} holds other codes than when {self.path} was joined: {again}, and join again")


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise ToolkitError(f"{path} is in the manifest but not on the disk: encode again with --overwrite") from None
    except (OSError, ValueError, EOFError) as error:
        raise ToolkitError(f"{path} is no readable .npy array ({error}): encode again with --overwrite") from None
