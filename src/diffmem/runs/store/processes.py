"""Which process left a note, and whether that process is gone for certain."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessId", "is_gone", "this_process"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from all others: of other machines, other containers, and later ones with its number.

    Attributes:
        host: Name of its machine, for people.
        place: Where its number means something: the machine since it was last started, and the container. Equal places
            are one place; of a process in another place nothing is known.
        pid: Its number.
        start: When it started, in clock ticks since the machine did (proc(5), stat); none where the system does not tell.
    """

    host: str
    place: str
    pid: int
    start: int | None


def this_process() -> ProcessId:
    """Return the process that calls."""
    host, pid = socket.gethostname(), os.getpid()
    found = _state_and_start(pid)
    return ProcessId(host, _place(host), pid, None if found is None else found[1])


def is_gone(process: ProcessId) -> bool:
    """Whether a process is certain to have ended: it ran in this place, and its number is free or another process's.

    False where it cannot be known: on another machine or in another container.
    """
    if process.place != _place(socket.gethostname()) or process.pid <= 0:
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
    # A zombie has ended (its files and locks are gone) and only waits for its parent to look.
    return state in "ZX" or (process.start is not None and start != process.start)


def _place(host: str) -> str:
    """Return the host, its boot and the namespace of process numbers; the host alone where there is no /proc."""
    try:
        return f"{host} {_BOOT.read_text().strip()} {os.readlink(_NAMESPACE)}"
    except OSError:
        return host


def _state_and_start(pid: int) -> tuple[str, int] | None:
    """Return the state letter and the start of a process, fields 3 and 22 of its `stat`; none if they cannot be read."""
    try:
        # The second field is the program's name in brackets, in which anything may stand.
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return words[0].decode("ascii"), int(words[19])
    except (OSError, IndexError, ValueError):
        return None
