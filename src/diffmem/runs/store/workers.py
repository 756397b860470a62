"""Who works on a run: leases of drivers, the status of the process in a run's folder, and whether a process is gone for certain."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import FiniteFloat, ValidationError

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.files import write_json
from diffmem.memorization.records import Record
from diffmem.progress import NO_PROGRESS, Pace, Progress

__all__ = [
    "STATUS_FILE",
    "Lease",
    "ProcessId",
    "Status",
    "is_gone",
    "read_status",
    "read_statuses",
    "reported_status",
    "this_process",
]

STATUS_FILE = "status.json"
_SECONDS_OF_SILENCE = 120.0

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class ProcessId:
    """A process, distinguished from all others: of other machines, other containers, and later ones with its number.

    Attributes:
        host: Name of its machine, for people.
        machine: Where its number means something: the machine since it was last started, and the container. Of a process
            of another machine nothing is known.
        pid: Its number.
        start: When it started, in clock ticks since the machine did (proc(5), stat); none where the system does not say.
    """

    host: str
    machine: str
    pid: int
    start: int | None


def this_process() -> ProcessId:
    """Return the process that calls."""
    host, pid = socket.gethostname(), os.getpid()
    found = _state_and_start(pid)
    return ProcessId(host, _machine(host), pid, None if found is None else found[1])


def is_gone(process: ProcessId) -> bool:
    """Whether a process is certain to have ended: it ran on this machine, and its number is free or another process's.

    False where it cannot be known: on another machine or in another container.
    """
    if process.machine != _machine(socket.gethostname()) or process.pid <= 0:
        return False
    try:
        os.kill(process.pid, 0)
    except (ProcessLookupError, OverflowError):  # a number that no process can have comes of damage
        return True
    except OSError:
        pass  # it is there and belongs to another user
    found = _state_and_start(process.pid)
    if found is None:  # hidden from this user, or a system without /proc
        return False
    state, start = found
    # A zombie has ended (its files and locks are gone) and only waits for its parent to notice.
    return state in "ZX" or (process.start is not None and start != process.start)


def _machine(host: str) -> str:
    """Return the host, its boot and the namespace of process numbers; the host alone where there is no /proc."""
    try:
        return f"{host} {_BOOT.read_text().strip()} {os.readlink(_NAMESPACE)}"
    except OSError:
        return host


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Return the state letter and the start of a process, fields 3 and 22 of its `stat`; none if they cannot be read."""
    try:
        # The second field is the program's name in brackets, in which anything may stand.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode("ascii"), int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@dataclass(frozen=True)
class Lease:
    """Who has a run, so that two drivers never plan the same training.

    Attributes:
        run_id: The run.
        study: What it is wanted for.
        owner: The index through which it was taken.
        host: Machine of the owner's process.
        pid: Number of that process.
        since: When the lease was taken, seconds since 1970 of the owner's clock, as the next.
        heartbeat: When it was last renewed.
        alive: Whether the owner still counts as alive; else the lease may be taken over.
    """

    run_id: str
    study: str
    owner: str
    host: str
    pid: int
    since: float
    heartbeat: float
    alive: bool


class _Process(Record):
    place: str
    start: int | None


class Status(Record):
    """What the process in a run's folder is doing: a small file, there as long as it works.

    Attributes:
        done: Units of work done.
        total: Units of all the work.
        note: What is going on, in words.
        pid: Number of the process.
        host: Its machine.
        started: When it began, seconds since 1970.
        updated: When it last reported, seconds since 1970.
        seconds_left: How long the rest takes at the pace so far; none before there is one.
        process: What else distinguishes it from other processes (see `ProcessId`).
    """

    done: FiniteFloat
    total: FiniteFloat
    note: str
    pid: int
    host: str
    started: FiniteFloat
    updated: FiniteFloat
    seconds_left: FiniteFloat | None
    process: _Process


@contextmanager
def reported_status(folder: Path, every: float = 1.0) -> Iterator[Progress]:
    """Yield a `Progress` that keeps the status of a run's folder while the block runs; under torchrun the first process alone writes.

    Args:
        every: Least number of seconds between two writes.
    """
    if not world().is_main:
        yield NO_PROGRESS
        return
    path, me, started = folder / STATUS_FILE, this_process(), time.time()
    pace, written = Pace(), -every

    def report(done: float, total: float, note: str = "") -> None:
        nonlocal written
        left, now = pace.seconds_left(done, total), time.monotonic()
        if now - written < every:
            return
        written = now
        status = Status(
            done=done, total=total, note=note, pid=me.pid, host=me.host, started=started, updated=time.time(),
            seconds_left=left, process=_Process(place=me.machine, start=me.start),
        )  # fmt: skip
        # It must not end hours of training; a full disk is reported by the files that matter.
        with suppress(DiffmemError):
            write_json(path, status.model_dump())

    try:
        yield report
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_status(folder: Path) -> Status | None:
    """Return what the process in a run's folder is doing.

    Returns:
        None if nobody works there: no file or a damaged one, a process of this machine that is gone, or one that has
        reported nothing for two minutes.
    """
    try:
        status = Status.model_validate_json((folder / STATUS_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    process = ProcessId(status.host, status.process.place, status.pid, status.process.start)
    silent = time.time() - status.updated > _SECONDS_OF_SILENCE
    return None if silent or is_gone(process) else status


def read_statuses(folders: Iterable[Path]) -> dict[str, Status]:
    """Return what the processes in runs' folders are doing, by run; runs that nobody works on are left out."""
    found = {folder.name: read_status(folder) for folder in folders}
    return {run_id: status for run_id, status in found.items() if status is not None}
