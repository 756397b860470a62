"""A folder that is written belongs to one job at a time: the folder of a report, or that of a run.

Two jobs with one folder would each replace the other's files, and use its unfinished work. The lock is one of the operating
system, so it ends with its process, however that ends, and no process that this one forks or starts holds it.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError

__all__ = ["BusyFolderError", "locked_folder"]


class BusyFolderError(UserError):
    """Another process, named in the text, works in the folder."""


@contextmanager
def locked_folder(
    folder: Path | None, instead: str = "name another folder with --out", seconds: float = 0.0
) -> Iterator[None]:
    """Keep other jobs out of a folder while the block runs; under torchrun the first process does it for all.

    The lock is the file `.lock` in the folder, which is removed at the end; so are folders that were made for it, if nothing
    was put there and nobody can have waited for them.

    Args:
        folder: The folder to write, made if it is missing; none locks nothing.
        instead: What a second job can do other than wait.
        seconds: How long to wait for a job that may be just ending; for ever, if negative.

    Raises:
        BusyFolderError: Another process holds the lock.
        UserError: The folder is a file.
        DiffmemError: The folder cannot be written, or its file system knows no locks.
    """
    if folder is None:
        yield
        return
    here = world()
    failure: DiffmemError | None = None
    with ExitStack() as stack:
        if here.is_main:
            try:
                stack.enter_context(_held(folder, instead, seconds))
            except DiffmemError as error:
                failure = error
        failure = here.broadcast(failure)
        if failure is not None:
            raise failure
        yield


@contextmanager
def _held(folder: Path, instead: str, seconds: float) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = folder / ".lock"
    made = [] if seconds else [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no folder; name another one.") from error
    except OSError as error:
        raise DiffmemError(
            f"Cannot make the folder {folder}: {error.strerror or error}; choose another one."
        ) from error
    lock = FileLock(path, timeout=seconds, fallback_to_soft=False)
    try:
        lock.acquire()
        ours = path.stat()
    except Timeout as error:
        raise BusyFolderError(
            f"{folder} is in use by {_holder(path)}; wait until that has ended, or {instead}."
        ) from error
    except OSError as error:
        raise DiffmemError(
            f"Cannot lock {path}: {error.strerror or error}; choose a folder that can be written, on a file system with file locks"
            " (for Lustre, one mounted with -o flock)."
        ) from error
    try:
        with suppress(OSError):  # on a full disk the lock holds all the same
            path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", "utf-8")
        yield
    finally:
        with suppress(OSError):
            # While it is still ours: the folder may have been removed, and another job have made it anew.
            if os.path.samestat(ours, path.stat()):
                path.unlink()
        lock.release()
        for one in made:
            with suppress(OSError):
                one.rmdir()


def _holder(path: Path) -> str:
    """Return who holds a lock, as it said itself."""
    try:
        found = json.loads(path.read_text("utf-8"))
        host = "".join(filter(str.isprintable, str(found["host"])))
        return f"process {int(found['pid'])} on {host}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"
