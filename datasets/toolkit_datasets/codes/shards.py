"""Shards: parts of one store, written by several processes or machines, and joined into what one would have written.

Shard 2 of 8 of the store `codes.h5` is `codes.h5.shards/2-of-8.h5`, that of the folder `codes` is
`codes.shards/2-of-8/`: a store of its own with a stretch of the rows, so it resumes on its own. Shards begin where a
batch of the encoder begins, so every batch is the one that a single process would have had, and so are its codes.
Joined, the `.npy` files are the same to the byte as if written in one go; an HDF5 file holds the manifest and virtual
datasets, which read the shards.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from ..atomic import output_folder, remove, replacing
from ..errors import ToolkitError
from ..locks import locked
from ..processes import this_process
from .layout import StoreInfo, level_folder
from .reader import Codes, open_codes
from .shard_files import LOCK, NAME, remove_shards, shards_folder, shards_read
from .sinks import describe_file, describe_folder, journal_of
from .writer import fingerprint, is_finished


@dataclass(frozen=True)
class Shard:
    """Which part of a store one process writes."""

    number: int  # from 1
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/8`.

        Raises:
            ToolkitError: it is not of this form, or there is no such shard.

        >>> Shard.parse("2/8")
        Shard(number=2, of=8)
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(int(found[1]), int(found[2])) if found else None
        if shard is None or not 1 <= shard.number <= shard.of:
            raise ToolkitError(f"{text!r} is no shard: write 1/8 for the first of eight, and so on up to 8/8")
        return shard

    @classmethod
    def of_process(cls) -> Shard | None:
        """That of this process among those that torchrun started; None where it is alone."""
        process = this_process()
        return cls(process.rank + 1, process.count) if process.count > 1 else None

    def rows(self, count: int, batch: int) -> slice:
        """Which of `count` rows: whole batches of `batch` rows, the same number for each shard or one more.

        Raises:
            ToolkitError: there are fewer batches than shards.

        >>> [Shard(k, 3).rows(90, 16) for k in (1, 2, 3)]
        [slice(0, 32, None), slice(32, 64, None), slice(64, 90, None)]
        """
        batches = -(-count // batch)
        if self.of > batches:
            raise ToolkitError(
                f"{self.of} shards are too many: {count} images make {batches} batches of {batch} "
                f"(encode.batch_size of the model), and each shard takes whole ones. Use {batches} or fewer"
            )
        first, last = (batches * number // self.of for number in (self.number - 1, self.number))
        return slice(first * batch, min(last * batch, count))

    def path(self, store: Path, format: str) -> Path:
        """Where the shard of `store` lies."""
        return shards_folder(store) / f"{self.number}-of-{self.of}{'.h5' if format == 'h5' else ''}"


def of_same_store(store: Path, of: int, whole: str) -> list[int]:
    """Numbers of the finished shards of a division into `of` that belong to the store with the fingerprint `whole`."""
    numbers = []
    for shard, path in _found(store).get(of, {}).items():
        about = journal_of(path).get("shard", {})
        if about.get("whole") == whole:
            numbers.append(shard)
    return sorted(numbers)


def join(store: Path, *, of: int | None = None, overwrite: bool = False) -> Codes:
    """Make one store of its finished shards, and open it.

    Args:
        store: where it is to stand; its shards lie beside it.
        of: the number of shards; None for the one division that is complete.
        overwrite: replace other codes at `store`.

    Raises:
        ToolkitError: shards are missing or unfinished, or are not of one model and one set of images.
    """
    if not shards_folder(store).is_dir() and store.exists():
        return open_codes(store)
    if of is None:
        of = _complete(store, _found(store))
    with locked(output_folder(shards_folder(store)) / LOCK):
        divisions = _found(store)
        paths = [divisions.get(of, {}).get(number) for number in range(1, of + 1)]
        present = [path for path in paths if path]
        whole = journal_of(present[0]).get("shard", {}).get("whole", "") if present else ""
        # Another process may have joined them since, and moved the files of a folder away.
        if present and not is_finished(store, whole, overwrite=overwrite):
            parts = [open_codes(path) for path in present]
            missing = [str(number) for number, path in enumerate(paths, start=1) if not path]
            if missing:
                raise ToolkitError(_missing_text(store, of, missing))
            info = _agreed(store, parts)
            manifest = pd.concat([part.manifest for part in parts], ignore_index=True)
            format = "h5" if present[0].is_file() else "npy"
            if fingerprint(format, info, manifest) != whole:
                raise ToolkitError(
                    f"the shards of {store} do not add up to the store that they were made for: was one exchanged? "
                    f"Delete {shards_folder(store)} and encode again"
                )
            replaced = shards_read(store)  # an earlier file may have been joined of another number of shards
            (_join_files if format == "h5" else _join_folders)(store, info, manifest, parts, whole)
            remove_shards(store, set(replaced) - set(present))
        if store.is_dir():
            shutil.rmtree(shards_folder(store))
    return open_codes(store)


def _found(store: Path) -> dict[int, dict[int, Path]]:
    """Finished shards beside `store`: number of shards -> number -> path."""
    divisions: dict[int, dict[int, Path]] = {}
    folder = shards_folder(store)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if found := NAME.fullmatch(path.name):
            divisions.setdefault(int(found[2]), {})[int(found[1])] = path
    return divisions


def _complete(store: Path, divisions: Mapping[int, Mapping[int, Path]]) -> int:
    """The one number of shards for which all are there."""
    complete = [of for of, paths in divisions.items() if len(paths) == of]
    if len(complete) == 1:
        return complete[0]
    folder = shards_folder(store)
    if complete:
        numbers = ", ".join(str(of) for of in sorted(complete))
        raise ToolkitError(f"{folder} holds complete sets of {numbers} shards: delete all but one of the sets")
    if not divisions:
        raise ToolkitError(
            f"no finished shards in {folder}: write them with `toolkit encode RUN --out {store} --shard 1/2` and so on"
        )
    of = max(divisions, key=lambda of: len(divisions[of]) / of)
    raise ToolkitError(_missing_text(store, of, [str(n) for n in range(1, of + 1) if n not in divisions[of]]))


def _missing_text(store: Path, of: int, missing: Sequence[str]) -> str:
    return (
        f"of {of} shards of {store} these are missing or unfinished: {', '.join(missing)}. "
        f"Encode them with `toolkit encode RUN --out {store} --shard {missing[0]}/{of}`, and copy them to "
        f"{shards_folder(store)} if that was done elsewhere"
    )


def _agreed(store: Path, parts: Sequence[Codes]) -> StoreInfo:
    """The metadata of the whole, once all shards are found to be of one piece."""
    first = parts[0]
    for part in parts[1:]:
        a, b = first.info, part.info
        wrong = [
            ("models", a.model_hash[:12], b.model_hash[:12]),
            ("contents", a.content, b.content),
            ("levels", [str(level) for level in a.levels], [str(level) for level in b.levels]),
            ("cards", a.card, b.card),
            ("sets of images", *((journal_of(p.path).get("shard") or {}).get("whole", "")[:12] for p in (first, part))),
        ]
        for what, mine, other in wrong:
            if mine != other:
                values = "" if what == "cards" else f" ({mine} and {other})"
                raise ToolkitError(
                    f"the shards {first.path.name} and {part.path.name} of {store} are of different {what}{values}: "
                    "encode the outdated ones again with --overwrite"
                )
    stage1 = dict(first.info.stage1)
    for key in [key for key in stage1 if key.startswith("encode_")]:  # device and threads may differ among machines
        found = list(dict.fromkeys(part.info.stage1.get(key) for part in parts))
        stage1[key] = found[0] if len(found) == 1 else ", ".join(str(value) for value in found)
    return replace(first.info, stage1=stage1)


def _join_files(store: Path, info: StoreInfo, manifest: pd.DataFrame, parts: Sequence[Codes], whole: str) -> None:
    """One HDF5 file over the shards, which stay where they are."""
    names = [f"{shards_folder(store).name}/{part.path.name}" for part in parts]
    own = {name: journal_of(part.path)["fingerprint"] for name, part in zip(names, parts, strict=True)}
    journal: dict[str, Any] = {"fingerprint": whole, "rows_done": len(manifest), "shards": own}
    codebooks = {level.name: parts[0].codebook(level.name) for level in info.levels if level.codes}
    stops = np.cumsum([len(part) for part in parts])
    with replacing(store) as temporary, h5py.File(temporary, "w") as file:
        describe_file(file, info, manifest, codebooks, journal)
        for level in info.levels:
            shape, dtype = level.shape(info.hdf5_content), level.dtype(info.hdf5_content)
            place = f"levels/{level.name}/{info.hdf5_content}"
            layout = h5py.VirtualLayout((len(manifest), *shape), dtype)
            for name, part, stop in zip(names, parts, stops, strict=True):
                source = h5py.VirtualSource(name, place, (len(part), *shape), dtype)
                layout[stop - len(part) : stop] = source
            file.create_virtual_dataset(place, layout)


def _join_folders(store: Path, info: StoreInfo, manifest: pd.DataFrame, parts: Sequence[Codes], whole: str) -> None:
    """One folder: the files of the shards are moved, so that nothing is written twice."""
    joined = store.with_name(f"{store.name}.joining")
    for part in parts:
        for level in info.levels:
            source, target = (level_folder(folder, info, level.name) for folder in (part.path, joined))
            for shard in sorted({Path(file).parent for file in part.manifest["file"]}):
                (target / shard).mkdir(parents=True, exist_ok=True)
            for name in part.manifest["file"]:
                _move(source / name, target / name)
            if level.codes:
                shutil.copyfile(source / "codebook.npy", target / "codebook.npy")
    describe_folder(joined, info, manifest, {"fingerprint": whole, "rows_done": len(manifest)})
    remove(store)
    joined.replace(store)


def _move(source: Path, target: Path) -> None:
    """Move a file, unless an interrupted join has done so."""
    try:
        source.replace(target)
    except FileNotFoundError:
        if not target.exists():
            raise ToolkitError(
                f"{source} is in the manifest of its shard but not on the disk: encode the shard again with --overwrite"
            ) from None
