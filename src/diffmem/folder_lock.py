"""The folder that a report goes to belongs to one job at a time.

Two jobs with one folder would each replace the other's files, and use its unfinished work. The lock is one of the operating
system, so it ends with its process, however that ends.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from diffmem.distributed import world
from diffmem.errors import DiffmemError, UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["locked_folder"]

_NAME = ".lock"


@contextmanager
def locked_folder(folder: Path | None, instead: str = "name another folder with --out") -> Iterator[None]:
    """Keep other jobs out of a folder while the block runs; under torchrun the first process does it for all.

    The lock is the file `.lock` in the folder, which is removed at the end; so are folders that were made for it, if nothing
    was put there.

    Args:
        folder: The folder to write, made if it is missing; none locks nothing.
        instead: What a second job can do other than wait.

    Raises:
        UserError: Another process holds the lock, or the folder is a file. Nothing was waited for.
        DiffmemError: The folder cannot be written, or its file system knows no locks.
    """
    if folder is None:
        yield
        return
    here = world()
    failure: DiffmemError | None = None
    lock: BaseFileLock | None = None
    held: os.stat_result | None = None
    made: list[Path] = []
    if here.is_main:
        try:
            made = _make(folder)
            lock = _take(folder, instead)
            with suppress(OSError):
                held = (folder / _NAME).stat()
        except DiffmemError as error:
            failure = error
    try:
        failure = here.broadcast(failure)
        if failure is not None:
            raise failure
        yield
    finally:
        if lock is not None:
            with suppress(OSError):
                # While it is still ours: the folder may have been removed, and another job have made it anew.
                if held is not None and os.path.samestat(held, (folder / _NAME).stat()):
                    (folder / _NAME).unlink()
            lock.release()
        for one in made:
            with suppress(OSError):
                one.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder and those above it; return what was made, the innermost first."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no folder; name one for the report with --out.") from error
    except OSError as error:
        raise DiffmemError(
            f"Cannot make the folder {folder}: {error.strerror or error}; choose another one."
        ) from error
    return missing


def _take(folder: Path, instead: str) -> BaseFileLock:
    from filelock import FileLock, Timeout

    path = folder / _NAME
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder} is in use by {_holder(path)}; wait until that has ended, or {instead}."
        ) from error
    except OSError as error:
        raise DiffmemError(
            f"Cannot lock {path}: {error.strerror or error}; choose a folder that can be written, on a file system with locks."
        ) from error
    with suppress(OSError):  # on a full disk the lock holds all the same
        path.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n", "utf-8")
    return lock


def _holder(path: Path) -> str:
    """Return who holds a lock, as it said itself."""
    try:
        found = json.loads(path.read_text("utf-8"))
        host = "".join(filter(str.isprintable, str(found["host"])))
        return f"process {int(found['pid'])} on {host}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
