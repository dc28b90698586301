"""One process at a time, by a lock on a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; where the system has no file locks, let all."""
    with path.open("w") as file:
        _lock(file)
        yield


def _lock(file: IO[Any]) -> None:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)
    except (ImportError, OSError):  # Windows, or a network drive without locks
        return
