"""Stopping between two steps: an interrupt in the middle of one would leave a state that no undisturbed run has."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["StopRequest"]


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request that the loop honours when it is ready.

    A second Ctrl-C stops at once, without waiting for the loop. Use as a context manager. In a
    thread other than the main one signals cannot be caught, and nothing changes.
    """

    def __init__(self) -> None:
        self.requested = False
        self._immediate = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        repeated = (
            self.requested and number == signal.SIGINT
        )  # a parent may pass on the Ctrl-C that the terminal sent us too
        self.requested = True
        if self._immediate or repeated:
            raise KeyboardInterrupt

    def honour(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested."""
        if self.requested:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a stop take effect immediately inside this block, where nothing can be left half done."""
        self.honour()
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False
