"""Stopping between two steps: an interrupt in the middle of one would leave a state that no undisturbed run has."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from diffmem.distributed import world

__all__ = ["Agreement", "StopRequest"]

_SECONDS_BETWEEN_TALKS = 0.5
_MOST_STEPS_BETWEEN_TALKS = 1000


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
        first, self.requested = not self.requested, True
        # A parent may pass on the Ctrl-C that the terminal sent us too, and who ends a job may ask twice: that disturbs no saving.
        if (first and self._immediate) or (not first and number == signal.SIGINT):
            raise KeyboardInterrupt

    def honour(self) -> None:
        """Raise KeyboardInterrupt if a stop was requested."""
        if self.requested:
            raise KeyboardInterrupt

    def honour_together(self) -> None:
        """Raise KeyboardInterrupt in every process if a stop was requested in one; all processes call it together."""
        if world().any(self.requested):
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


class Agreement:
    """What processes decide together between two steps: to stop, which a signal may ask one of them alone, and to save.

    They talk about twice a second, or after every step if these are longer; one process alone decides after every step.
    """

    def __init__(self, stop: StopRequest) -> None:
        self._stop, self._world = stop, world()
        self._steps, self._next, self._since = 0, 1, time.monotonic()

    def reach(self, save: bool) -> tuple[bool, bool]:
        """Count a step and return what is to be done after it, the same in every process.

        Args:
            save: Whether this process would save; the first one decides.

        Returns:
            Whether to stop, and whether to save.
        """
        self._steps += 1
        if self._steps < self._next:
            return False, False
        pace = (time.monotonic() - self._since) / self._steps
        steps = int(min(_SECONDS_BETWEEN_TALKS / max(pace, 1e-9), _MOST_STEPS_BETWEEN_TALKS))
        answers = self._world.gather((self._stop.requested, save, steps if self._world.size > 1 else 1))
        _, saving, self._next = answers[0]
        self._steps, self._since = 0, time.monotonic()
        return any(stopping for stopping, _, _ in answers), saving
