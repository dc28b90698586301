"""Where the shards of a store lie, and which ones a joined file reads (see shards.py)."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from ..atomic import remove
from .sinks import journal_of

NAME = re.compile(r"([1-9]\d*)-of-([1-9]\d*)(?:\.h5)?")
LOCK = "lock"  # beside the shards: one process at a time joins them


def shards_folder(store: Path) -> Path:
    """Where the shards of `store` lie."""
    return store.with_name(f"{store.name}.shards")


def shards_read(store: Path) -> list[Path]:
    """The shards that the joined file `store` reads; none of any other store."""
    folder = shards_folder(store)
    listed = [Path(name) for name in journal_of(store).get("shards", {})]
    # A file may list anything; what is not a shard of its own is nobody's to delete.
    return [folder / path.name for path in listed if str(path.parent) == folder.name and NAME.fullmatch(path.name)]


def remove_shards(store: Path, shards: Collection[Path]) -> None:
    """Delete shards that nothing reads any more, since `store` was replaced; their folder too once it is empty."""
    for shard in shards:
        remove(shard)
    folder = shards_folder(store)
    if shards and folder.is_dir() and {path.name for path in folder.iterdir()} <= {LOCK}:
        remove(folder)
