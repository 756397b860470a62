"""How far the process in a run's folder has come: a small file, there as long as the process works."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.files import read_json, write_json
from diffmem.runs.store.processes import ProcessId, is_gone, this_process

__all__ = ["Status", "StatusFile", "read_status"]

_FILE = "status.json"
_SECONDS_OF_SILENCE = 120.0


@dataclass(frozen=True)
class Status:
    """What a process is doing.

    Attributes:
        done: Units of work done.
        total: Units of all the work.
        note: What is going on, in words.
        pid: Number of the process.
        host: Its machine.
        started: When it began, seconds since 1970.
        updated: When it last told, seconds since 1970.
        seconds_left: How long the rest takes at the pace so far; none before there is one.
    """

    done: float
    total: float
    note: str
    pid: int
    host: str
    started: float
    updated: float
    seconds_left: float | None


class StatusFile:
    """The status of the process that works in a run's folder; `tell` is a `Progress`.

    Under torchrun the first process alone writes. May be used as a context manager, which closes it.

    Args:
        folder: The run's folder.
        every: Least number of seconds between two writes.
    """

    def __init__(self, folder: Path, every: float = 1.0) -> None:
        self._path, self._every = folder / _FILE, every
        self._me, self._started = this_process(), time.time()
        self._begin = time.monotonic()
        self._written: float | None = None
        self._first: float | None = None

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def tell(self, done: float, total: float, note: str = "") -> None:
        """Write how far the work is, unless that was written just now.

        Args:
            done: Units done.
            total: Units of all the work.
            note: What is going on.
        """
        now = time.monotonic()
        if self._first is None:  # work that is resumed starts above zero; the pace is of what is done here
            self._first, self._begin = done, now
        if self._written is not None and now - self._written < self._every:
            return
        self._written = now
        if not world().is_main:
            return
        gained, left = done - self._first, None
        if gained > 0 and total >= done:
            left = (now - self._begin) * (total - done) / gained
        status = Status(done, total, note, self._me.pid, self._me.host, self._started, time.time(), left)
        process = {"place": self._me.place, "start": self._me.start}
        # It must not end hours of training; a full disk is told by the files that matter.
        with suppress(DiffmemError):
            write_json(self._path, {**asdict(status), "process": process})

    def close(self) -> None:
        """Remove the file: nobody works here any more."""
        if world().is_main:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


def read_status(folder: Path) -> Status | None:
    """Return what the process in a run's folder is doing.

    Args:
        folder: The run's folder.

    Returns:
        None if nobody works there: no file or a damaged one, a process of this machine that is gone, or one that has
        told nothing for two minutes.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        found = read_json(path)
        process = found.pop("process")
        left = found["seconds_left"]
        status = Status(
            done=float(found["done"]),
            total=float(found["total"]),
            note=str(found["note"]),
            pid=int(found["pid"]),
            host=str(found["host"]),
            started=float(found["started"]),
            updated=float(found["updated"]),
            seconds_left=None if left is None else float(left),
        )
        start = process["start"]
        who = ProcessId(status.host, str(process["place"]), status.pid, None if start is None else int(start))
    except (DiffmemError, AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    numbers = (status.done, status.total, status.started, status.updated, status.seconds_left or 0.0)
    if not all(map(math.isfinite, numbers)):
        return None
    silent = time.time() - status.updated > _SECONDS_OF_SILENCE
    return None if silent or is_gone(who) else status
