"""A process that ends when it is asked to, and when its parent is gone: what it does is saved, and nothing runs on unseen."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from diffmem.executors.pool import SECONDS_TO_STOP

__all__ = ["end_with", "end_with_input", "signals_held", "stop_on_signals"]

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_held(*numbers: signal.Signals) -> Iterator[None]:
    """Hold back signals, here and for good in the threads and processes that are started meanwhile, until these let them through."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop_on_signals() -> None:
    """Turn the first Ctrl-C or SIGTERM into KeyboardInterrupt and ignore further ones, which would disturb the saving."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        for each in _ENDING:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _ENDING:
        signal.signal(number, on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def end_with(gone: Callable[[], object]) -> None:
    """Send this process SIGTERM once a call returns, and end it a minute later.

    Args:
        gone: Returns when what this process lives for is gone.
    """

    def watch() -> None:
        gone()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_TO_STOP)
        os._exit(1)

    threading.Thread(target=watch, name="end-with", daemon=True).start()


def end_with_input() -> None:
    """End this process when its standard input closes, as it does when the process that holds the other end dies.

    Unlike the id of the parent, it also reaches processes that were started by others in between, as torchrun does.
    """

    def closed() -> None:
        while os.read(0, 4096):
            pass

    end_with(closed)
