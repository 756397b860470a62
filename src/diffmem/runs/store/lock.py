"""A lock on a file, freed by the kernel when its process ends, and the lock of a run's folder made of it.

The locks are those of flock(2). On network file systems they work between machines where the file system passes them on
(NFS since Linux 2.6.12; Lustre mounted with `-o flock`); one that knows no locks is told as an error.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.runs.store.processes import this_process

__all__ = ["BusyRunError", "RunLock", "locked"]

_SECONDS_BETWEEN_TRIES = 0.1


class BusyRunError(DiffmemError):
    """Another process works in the folder.

    Attributes:
        pid: Its number; none if it could not be read.
        host: Its machine; none if it could not be read.
    """

    def __init__(self, text: str, pid: int | None = None, host: str | None = None) -> None:
        super().__init__(text)
        self.pid, self.host = pid, host

    def __reduce__(self) -> tuple[type[BusyRunError], tuple[str, int | None, str | None]]:
        """Return how it is made again in the process that it is sent to."""
        return type(self), (str(self), self.pid, self.host)


class _FileLock:
    """An exclusive lock on a file that is made for it; the file stays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, seconds: float) -> bool:
        """Take the lock, waiting so long; return whether it is ours.

        Raises:
            DiffmemError: The file cannot be made, or its file system knows no locks.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise DiffmemError(f"Cannot write {self.path}: {error.strerror or error}.") from error
            self._handle = handle
            _held.add(self)  # before it is locked: from now on a fork closes its copy
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.free()
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_SECONDS_BETWEEN_TRIES * random.uniform(0.5, 1))
                continue
            except OSError as error:
                self.free()
                raise DiffmemError(
                    f"Cannot lock {self.path}: {error.strerror or error}. The store must lie on a file system with file locks"
                    " (for Lustre, one mounted with -o flock)."
                ) from error
            if self._is_in_place(handle):
                return True
            self.free()  # its file was removed meanwhile: the one that is there now counts

    def _is_in_place(self, handle: int) -> bool:
        try:
            return os.path.samestat(os.fstat(handle), self.path.stat())
        except OSError:
            return False

    def write(self, text: str) -> None:
        """Leave a note in the file, for those who wait."""
        if self._handle is not None:
            with suppress(OSError):  # on a full disk the lock holds all the same
                os.ftruncate(self._handle, 0)
                os.pwrite(self._handle, text.encode(), 0)

    def free(self, note: str | None = None) -> None:
        """Give the lock back, with a last note in the file, if it is held."""
        if self._handle is not None:
            if note is not None:
                self.write(note)
            os.close(self._handle)
            self._handle = None
        _held.discard(self)

    def forget(self) -> None:
        """Close the copy that a forked process has: the lock stays with the parent, and ends with it."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


_held: weakref.WeakSet[_FileLock] = weakref.WeakSet()


def _after_fork() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def locked(path: Path, seconds: float = 60.0) -> Iterator[None]:
    """Hold the lock of a file during a short piece of work.

    Args:
        path: The file, made if missing; it holds nothing and stays.
        seconds: How long to wait for another process.

    Raises:
        DiffmemError: It is not free in time, or cannot be locked.
    """
    lock = _FileLock(path)
    if not lock.take(seconds):
        raise DiffmemError(
            f"{path} has been locked by another process for more than {seconds:g} s; end that process if it hangs."
        )
    try:
        yield
    finally:
        lock.free()


class RunLock:
    """The right to write in a run's folder, held by the one process that trains or samples there.

    Taken when the block is entered and freed when it is left, or by the kernel when the process ends, however it ends.
    Processes that it forks or starts do not hold it. Under torchrun the first process holds it for all.

    Args:
        folder: The run's folder, made if missing; the lock is its file `.lock`.
        seconds_to_wait: How long to wait for another process, which may be just ending.

    Raises:
        BusyRunError: On entering: another process holds it; the error names it.
        DiffmemError: On entering: the folder cannot be written or its file system knows no locks.
    """

    def __init__(self, folder: Path, seconds_to_wait: float = 30.0) -> None:
        self._folder, self._seconds = folder, seconds_to_wait
        self._lock = _FileLock(folder / ".lock")

    def __enter__(self) -> Self:
        """Take the lock."""
        if not world().is_main:
            return self
        if not self._lock.take(self._seconds):
            pid, host = self._holder()
            who = "another process" if pid is None else f"process {pid} on {host}"
            raise BusyRunError(
                f"{self._folder} is in use by {who}, for more than {self._seconds:g} s; wait until that ends, or end it.",
                pid,
                host,
            )
        me = this_process()
        self._lock.write(json.dumps({"pid": me.pid, "host": me.host}) + "\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the lock."""
        self._lock.free(note="")

    def _holder(self) -> tuple[int | None, str | None]:
        """Return what the holder wrote; it may have been killed while writing."""
        try:
            found = json.loads(self._lock.path.read_text("utf-8"))
            return int(found["pid"]), str(found["host"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None, None
