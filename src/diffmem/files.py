"""Files that are either whole or absent: write to a temporary name beside the target, then rename.

A process that is killed, or a disk that fills up, leaves the old file (or none), never half of the new one. `write_folder` does
the same for the files of a report, which belong together.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from diffmem.errors import DiffmemError

__all__ = [
    "appears",
    "atomic_path",
    "is_whole",
    "json_bytes",
    "locked_file",
    "read_json",
    "read_number",
    "rename_file",
    "sha256_file",
    "unfinished",
    "write_bytes",
    "write_folder",
    "write_json",
    "write_text",
]

_SECONDS_TO_WAIT = 60.0
_SECONDS_TO_APPEAR = 70.0


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is renamed to `target`, on failure it is removed.

    Args:
        target: The file to write. Its folder is made if it is missing.

    Raises:
        DiffmemError: The operating system refused the write (a full disk, no permission).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _new_file(target)
    except OSError as error:
        raise DiffmemError(f"Cannot write {target}: {error.strerror or error}. {_remedy(error)}") from error
    try:
        yield temporary
        _settle(temporary)
        temporary.replace(target)
    except OSError as error:
        left = "The file that was there is kept" if target.exists() else "No file was made"
        raise DiffmemError(
            f"Cannot write {target}: {error.strerror or error}. {left}. {_remedy(error)}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _new_file(target: Path) -> Path:
    """Make an empty file beside `target`, to be renamed to it."""
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
    temporary.touch(exist_ok=False)
    return temporary


def unfinished(folder: Path, name: str = "") -> list[Path]:
    """Return what killed processes left in a folder of writing files whose names begin so; nobody may be writing there now."""
    return list(folder.glob(f".{name}*.tmp*"))


@contextmanager
def locked_file(lock: Path, seconds: float = _SECONDS_TO_WAIT) -> Iterator[None]:
    """Keep all others that lock the same file out while the block runs, which takes moments; the file is removed then.

    Who waited and locks the removed file notices that it has no name (filelock does), and waits for the new one.

    Args:
        seconds: How long to wait for it.

    Raises:
        TimeoutError: Another process has kept it for longer.
        OSError: It cannot be made or locked.
    """
    from filelock import FileLock

    with FileLock(lock, timeout=seconds):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


def _settle(temporary: Path) -> None:
    """Bring a file that was written to the disk."""
    with temporary.open("rb") as written:
        os.fsync(written.fileno())


def _remedy(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return "Free some space or choose another folder." if full else "Choose another folder."


def write_folder(folder: Path, contents: Mapping[str, bytes], stale: Iterable[str] = ()) -> list[Path]:
    """Write files that belong together, so that what is in the folder is one whole report, old or new.

    All are written under temporary names first: until then the folder is as it was, and a disk that fills up leaves it so. Then
    the last of them, the record, is taken away, the others are renamed, the stale ones removed, and the new record put there. So
    a folder with a record is whole, also if the process is killed; other files are left alone. Of processes that do so at once,
    as a study that grows its page and who asks for it meanwhile, each waits for the other's renames.

    Args:
        folder: Made if it is missing.
        contents: Name in the folder -> content, at least one; the record last.
        stale: Names of an earlier report's files, which are removed if this one does not write them.

    Returns:
        The files, in the order of `contents`.

    Raises:
        DiffmemError: A file cannot be written, renamed or removed. The message says whether the folder is as it was, and
            otherwise what is missing in it.
    """
    targets = {folder / name: content for name, content in contents.items()}
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    waiting: dict[Path, Path] = {}
    try:
        target = folder
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for target, content in targets.items():
                    if target.is_dir():
                        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                    waiting[target] = _new_file(target)
                    waiting[target].write_bytes(content)
                    _settle(waiting[target])
                stack.enter_context(locked_file(folder / ".writing.lock"))
            except OSError as error:
                left = "Nothing was written" if made else "The folder is as it was"
                raise DiffmemError(
                    f"Cannot write {target}: {error.strerror or error}. {left}. {_remedy(error)}"
                ) from error
            old = [folder / name for name in stale if name not in contents]
            _put_in_place(waiting, [path for path in old if os.path.lexists(path)])
    finally:
        for temporary in waiting.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        for one in made:
            with suppress(OSError):  # holds something: this report
                one.rmdir()
    return list(targets)


def _put_in_place(waiting: Mapping[Path, Path], stale: list[Path]) -> None:
    """Rename what was written, remove what is stale, the record first gone and last put there."""
    *others, record = waiting
    done: list[Path] = []
    target = record
    before = waiting[record].with_name(waiting[record].name + ".before")
    try:
        with suppress(FileNotFoundError):
            record.replace(before)
        for target in others:
            waiting[target].replace(target)
            done.append(target)
        for target in stale:
            target.unlink(missing_ok=True)
            done.append(target)
        target = record
        waiting[record].replace(record)
    except OSError as error:
        reason = f"Cannot replace {target}: {error.strerror or error}."
        if not done and _moved_back(before, record):
            raise DiffmemError(f"{reason} The folder is as it was. {_remedy(error)}") from error
        missing = [path.name for path in waiting if path not in done]
        kept = [path.name for path in stale if path not in done]
        left = f" Of an earlier report there is still: {', '.join(kept)}." if kept else ""
        raise DiffmemError(
            f"{reason} The report is not whole, so it has no {record.name} now. Not written: {', '.join(missing)}.{left}"
            " Call the command again."
        ) from error
    finally:
        with suppress(OSError):
            before.unlink(missing_ok=True)


def _moved_back(before: Path, record: Path) -> bool:
    """Put the earlier record back, if there was one; return whether all is as it was."""
    try:
        if before.exists():
            before.replace(record)
    except OSError:
        return False
    return True


def rename_file(source: Path, target: Path) -> None:
    """Rename a file that was written atomically, in place of `target`.

    Raises:
        DiffmemError: The operating system refused it.
    """
    try:
        source.replace(target)
    except OSError as error:
        raise DiffmemError(f"Cannot write {target}: {error.strerror or error}. {_remedy(error)}") from error


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write `content` to `target` atomically, as UTF-8."""
    write_bytes(target, content.encode())


def write_json(target: Path, content: Any) -> None:
    """Write `content` to `target` atomically, as indented JSON. NaN and infinities are refused: they are not JSON."""
    write_bytes(target, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """Return `content` as indented JSON.

    Raises:
        ValueError: It holds a NaN or an infinity.
    """
    return (json.dumps(content, indent=1, allow_nan=False) + "\n").encode()


def read_json(source: Path) -> Any:
    """Read a JSON file.

    Raises:
        DiffmemError: The file is missing or not valid JSON.
    """
    try:
        return json.loads(source.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DiffmemError(f"Cannot read {source}: {error}.") from error


def read_number(source: Path, key: str) -> float:
    """Return the number under `key` of a JSON file of bookkeeping; 0 if the file is missing or damaged."""
    try:
        return float(read_json(source)[key])
    except (DiffmemError, KeyError, TypeError, ValueError):
        return 0.0


def is_whole(path: Path, read: Callable[[], object], warn: Callable[[str], None]) -> bool:
    """Whether a file is there and can be read; `warn` is told of a damaged one, which is to be made anew."""
    if not path.exists():
        return False
    try:
        read()
    except DiffmemError as error:
        warn(f"{error} It is regenerated.")
        return False
    return True


def appears(is_there: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> bool:
    """Whether what another machine has written is there, or comes within a minute.

    A network file system does not see for so long that a file is there which it has looked for before (nfs(5), acdirmax).

    Args:
        is_there: Looks for it.
        meanwhile: Called after each look in vain.
    """
    deadline = time.monotonic() + _SECONDS_TO_APPEAR
    while not is_there():
        if time.monotonic() >= deadline:
            return False
        meanwhile()
        time.sleep(0.5)
    return True


def sha256_file(source: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
