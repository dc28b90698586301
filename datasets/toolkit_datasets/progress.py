"""Progress of long work: one small interface, so that the library itself never prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

LINE_EVERY = 30.0  # seconds between two lines of progress in a log


class Bar(Protocol):
    """A running count of finished items."""

    def update(self, n: int = 1) -> object:
        """Count `n` more items as done."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object:
        """Show `s` beside the count, such as the current loss."""


class Progress(Protocol):
    """What long work is handed: opens bars, and says a line."""

    def bar(self, title: str, total: int, unit: str, *, done: int = 0) -> AbstractContextManager[Bar]:
        """Open a bar over `total` items, counted in `unit`s; `done` of them are from an earlier sitting."""

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
    def bar(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        """Open a bar that is never drawn."""
        yield _SilentBar()

    def say(self, line: str) -> None:
        """Drop the line."""


SILENT = Silent()


class _LineBar:
    """A bar for logs: a line of its own now and then, and nothing for short work."""

    def __init__(self, title: str, total: int, unit: str, done: int, say: Callable[[str], None]) -> None:
        self._title, self._total, self._unit, self._say = title, total, unit, say
        self._earlier = self._done = done
        self._remark = ""
        self._began = self._last = time.monotonic()

    def update(self, n: int = 1) -> None:
        """Count, and say so if the last line is `LINE_EVERY` seconds old."""
        self._done += n
        now = time.monotonic()
        if now - self._last >= LINE_EVERY:
            self._last = now
            rate = (self._done - self._earlier) / (now - self._began)
            line = f"{self._title}: {self._done:,}" + (f" of {self._total:,}" if self._total else "") + f" {self._unit}"
            if rate and self._total:
                line += f", {rate:,.0f}/s, {(self._total - self._done) / rate:,.0f} s left"
            self._say(line + (f"; {self._remark}" if self._remark else ""))

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
        """Remember the remark for the next line."""
        self._remark = s


class Terminal:
    """Progress on stderr (stdout stays free for data): bars where someone watches, else a line now and then."""

    def __init__(self, *, bars: bool | None = None) -> None:
        self.bars = sys.stderr.isatty() if bars is None else bars

    @contextmanager
    def bar(self, title: str, total: int, unit: str, *, done: int = 0) -> Iterator[Bar]:
        """Open a bar with rate and time left."""
        if not self.bars:
            yield _LineBar(title, total, unit, done, self.say)
            return
        from tqdm import tqdm

        shown = tqdm(total=total, initial=done, desc=title, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True)
        with shown as bar:
            yield bar

    def say(self, line: str) -> None:
        """Write the line to stderr, above any bar."""
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
