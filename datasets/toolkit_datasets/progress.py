"""Progress of long work: one small interface, so that the library itself never prints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """A running count of finished items."""

    def update(self, n: int = 1) -> object:
        """Count `n` more items as done."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object:
        """Show `s` beside the count, such as the current loss."""


class Progress(Protocol):
    """What long work is handed: opens bars, and says a line."""

    def bar(self, title: str, total: int, unit: str) -> AbstractContextManager[Bar]:
        """Open a bar over `total` items, counted in `unit`s."""

    def say(self, line: str) -> None:
        """Show one line of information."""


class _SilentBar:
    def update(self, n: int = 1) -> None:
        """Do nothing."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Do nothing."""


class Silent:
    """Shows nothing: the default of every library call."""

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Bar]:
        """Open a bar that is never drawn."""
        yield _SilentBar()

    def say(self, line: str) -> None:
        """Drop the line."""


SILENT = Silent()


class Terminal:
    """Bars and lines on stderr (stdout stays free for data); bars only where someone watches or `force` is set."""

    def __init__(self, *, bars: bool | None = None) -> None:
        self.bars = sys.stderr.isatty() if bars is None else bars

    @contextmanager
    def bar(self, title: str, total: int, unit: str) -> Iterator[Bar]:
        """Open a tqdm bar with rate and time left."""
        from tqdm import tqdm

        with tqdm(
            total=total, desc=title, unit=f" {unit}", disable=not self.bars, file=sys.stderr, dynamic_ncols=True
        ) as bar:
            yield bar

    def say(self, line: str) -> None:
        """Write the line to stderr, above any bar."""
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
