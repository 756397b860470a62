"""Files that are either whole or absent: write to a temporary name beside the target, then rename.

A process that is killed, or a disk that fills up, leaves the old file (or none), never half of the new one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffmem.errors import DiffmemError

__all__ = [
    "atomic_path",
    "read_json",
    "read_number",
    "sha256_file",
    "write_bytes",
    "write_json",
    "write_text",
]


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
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise DiffmemError(f"Cannot write {target}: {error.strerror or error}.") from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp makes private files; results are for sharing
        temporary.replace(target)
    except OSError as error:
        raise DiffmemError(
            f"Cannot write {target}: {error.strerror or error}. Nothing was changed; free some space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target` atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write `content` to `target` atomically, as UTF-8."""
    write_bytes(target, content.encode())


def write_json(target: Path, content: Any) -> None:
    """Write `content` to `target` atomically, as indented JSON. NaN and infinities are refused: they are not JSON."""
    write_text(target, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(source: Path) -> Any:
    """Read a JSON file.

    Raises:
        DiffmemError: The file is missing or not valid JSON.
    """
    try:
        return json.loads(source.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DiffmemError(f"Cannot read {source}: {error}.") from error


def read_number(source: Path, key: str) -> float:
    """Return the number under `key` of a JSON file of bookkeeping; 0 if the file is missing or damaged."""
    try:
        return float(read_json(source)[key])
    except (DiffmemError, KeyError, TypeError, ValueError):
        return 0.0


def sha256_file(source: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
