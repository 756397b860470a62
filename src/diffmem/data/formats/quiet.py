"""Image libraries that print by themselves: what libtiff says on damaged files does not reach the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

__all__ = ["quiet"]

_STDERR = 2
_LOCK = threading.RLock()

# Without a handler, Python prints Pillow's own log of damaged files; programs that set up logging still get it.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let nothing that a C library prints on standard error out of the block; one thread at a time.

    The file descriptor is what such libraries know, so that what other threads print meanwhile is lost: keep the block
    short.
    """
    with _LOCK:
        try:
            kept = os.dup(_STDERR)
        except OSError:  # there is no standard error
            yield
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, _STDERR)
            finally:
                os.close(nowhere)
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)
