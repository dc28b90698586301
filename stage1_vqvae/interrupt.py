"""Ctrl-C that waits for the end of a step, so that what is saved is never half a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # a scheduler that wants its machine back sends the second


class Interrupt:
    """While the block runs, the first Ctrl-C or SIGTERM only sets `requested`; a second one interrupts at once.

    A `patient` one ignores all further ones: torchrun passes Ctrl-C on to processes that had it from the terminal.
    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.requested, self.patient = False, patient
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        """Take the signals over."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
