"""SQLite opened with care: patience with others, damage set aside, versions, network file systems, full disks."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from diffmem.errors import DiffmemError, UserError
from diffmem.studies.store.filesystems import is_local
from diffmem.studies.store.lock import locked

__all__ = ["DamagedDatabaseError", "Database"]

_T = TypeVar("_T")
_APPLICATION = 0x64666D6D  # "dfmm": what tells this package's databases from others of the same name
_SECONDS_OF_PATIENCE = 60.0
_COMPANIONS = ("-wal", "-shm", "-journal")


class DamagedDatabaseError(DiffmemError):
    """The file is no database, or a damaged one."""


class Database:
    """A database that several processes use, which is made where it is missing and set aside where it cannot be used.

    A damaged database, or one that is not this package's, is renamed to `<name>.damaged-<n>` with its companions, which is
    told, and an empty one is made in its place. All processes on all machines may do this at the same time: a lock beside
    the file lets one at a time open it.

    A new database is in WAL mode on a disk of this machine, where readers and writers do not wait for each other. WAL needs
    memory that all users share, so it does not work between machines: on any other file system the rollback journal
    (DELETE mode) is used, and a database that was made in WAL mode and is found on one is changed.

    Args:
        path: The file; its folder is made if missing.
        schema: Statements that make the tables.
        version: Number of this schema, from 1.
        read_only: Change nothing and make nothing.
        warn: Told of a database that was set aside.

    Raises:
        UserError: The database has a newer schema.
        DamagedDatabaseError: `read_only`, and it is missing, damaged, not this package's or of an older schema.
        DiffmemError: It cannot be opened or written.
    """

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        version: int,
        *,
        read_only: bool = False,
        warn: Callable[[str], None] = print,
    ) -> None:
        self.path, self._schema, self._version = path, schema, version
        self._read_only, self._warn = read_only, warn
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._open(None)

    def close(self) -> None:
        """Close it; further work raises an error."""
        if self._connection is not None:
            # The last one to close tidies up, for which the disk may be too full.
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def reopen_if_replaced(self) -> bool:
        """Open the file that is there, if another is open (which was removed, or set aside by another process) or none is.

        Returns:
            Whether that happened.
        """
        if self._connection is not None and self._identity() == self._file:
            return False
        self.close()
        self._open(None)
        return True

    def set_aside(self) -> None:
        """Give up the file that is open, which was found damaged, unless another process did; open what is there then."""
        self.close()
        self._open(self._file)

    def transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do some work as one transaction, alone among all who write; return what it returns.

        Args:
            work: Given the connection; called again if others were in the way, so it must change nothing else.

        Raises:
            DamagedDatabaseError: The file is damaged.
            DiffmemError: The disk is full, the file cannot be written, or others kept it for longer than a minute.
        """
        connection = self._connection
        if connection is None:
            raise DiffmemError(f"{self.path} is closed.")

        def attempt() -> _T:
            try:
                connection.execute("BEGIN" if self._read_only else "BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                    connection.execute("ROLLBACK")
                raise
            return result

        return self._patiently(attempt)

    def _identity(self) -> tuple[int, int] | None:
        try:
            about = self.path.stat()
        except OSError:
            return None
        return about.st_dev, about.st_ino

    def _open(self, distrusted: tuple[int, int] | None) -> None:
        """Open the file whoever made it; `distrusted` names one that is to be set aside whatever it looks like."""
        if self._read_only:
            self._file = self._identity()
            self._connection = self._connected("ro")
            try:
                if self._patiently(lambda: self._standing(self._connection)) != "ours":
                    raise DamagedDatabaseError(f"{self.path} is not an index of this version.")
            except DiffmemError:
                self.close()
                raise
            return
        with locked(self.path.with_name(f".{self.path.name}.lock"), _SECONDS_OF_PATIENCE):
            if distrusted is not None and self._identity() == distrusted:
                self._rename("is damaged")
            if not self.path.exists():
                # What is left of one that was removed would be taken for the new one's.
                for ending in _COMPANIONS:
                    self._remove(self.path.with_name(self.path.name + ending))
            self._connection = self._connected("rwc")
            standing = "damaged"
            try:
                standing = self._patiently(lambda: self._standing(self._connection))
            except DamagedDatabaseError:
                pass
            except DiffmemError:
                self.close()
                raise
            if standing in ("foreign", "damaged"):
                self.close()
                self._rename("is damaged" if standing == "damaged" else "is not an index of this version")
                self._connection = self._connected("rwc")
            try:
                self._patiently(lambda: self._prepare(self._connection, new=standing != "ours"))
            except DiffmemError:
                self.close()
                raise
            self._file = self._identity()

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DiffmemError(f"Cannot remove {path}: {error.strerror or error}.") from error

    def _connected(self, mode: str) -> sqlite3.Connection:
        def attempt() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                timeout=5.0,
                isolation_level=None,  # transactions begin where this class says
                check_same_thread=False,  # the index lets one thread at a time in
            )
            # Words for people, in which damage must not stop everything.
            connection.text_factory = lambda raw: raw.decode(errors="replace")
            return connection

        return self._patiently(attempt)

    def _standing(self, connection: sqlite3.Connection | None) -> str:
        """Return 'empty', 'ours' or 'foreign' (another's, or an older schema).

        Raises:
            DamagedDatabaseError: It is damaged.
            UserError: It has a newer schema.
        """
        assert connection is not None
        found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(1)")]
        if found != ["ok"]:
            raise DamagedDatabaseError(f"{self.path} is damaged: {' '.join(found)}.")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not version:
            return "empty"
        if application != _APPLICATION or version < self._version:
            return "foreign"
        if version > self._version:
            raise UserError(
                f"{self.path} was made by a newer version of diffmem (its schema is {version}, this version knows"
                f" {self._version}); use that version, or remove the file: it is rebuilt from the folders."
            )
        return "ours"

    def _prepare(self, connection: sqlite3.Connection | None, *, new: bool) -> None:
        """Choose the journal and make the tables of a new database."""
        assert connection is not None
        local = is_local(self.path.parent)
        (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
        # Never back to WAL: a folder may be local here and reached by other machines over the network.
        if (new and local and journal != "wal") or (not local and journal == "wal"):
            (journal,) = connection.execute(f"PRAGMA journal_mode={'WAL' if local else 'DELETE'}").fetchone()
            if not local and journal == "wal":
                raise DiffmemError(
                    f"{self.path} is in use on the machine whose disk it lies on, in a mode that does not work over a network;"
                    " end the studies there, or run this one there too."
                )
        if local:
            # A power cut may take the last transactions, never the database; what they said is in the folders.
            connection.execute("PRAGMA synchronous=NORMAL")
        if new:
            try:
                connection.execute("BEGIN IMMEDIATE")
                for statement in self._schema:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id={_APPLICATION}")
                connection.execute(f"PRAGMA user_version={self._version}")
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def _rename(self, why: str) -> None:
        """Rename the file and its companions to a name that is free."""
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.damaged-{number}")).exists():
            number += 1
        try:
            # The database last: whoever is killed in between leaves one that is still to be set aside, and never a new
            # database beside the journal of another.
            for ending in (*_COMPANIONS, ""):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
        except OSError as error:
            raise DiffmemError(f"Cannot rename {self.path}: {error.strerror or error}.") from error
        self._warn(f"{self.path} {why}; it was set aside as {aside.name} and is rebuilt from the folders.")

    def _patiently(self, attempt: Callable[[], _T]) -> _T:
        """Try until others are out of the way; errors of SQLite become errors of this package."""
        deadline = time.monotonic() + _SECONDS_OF_PATIENCE
        while True:
            try:
                return attempt()
            except sqlite3.Error as error:
                if (
                    _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
                    and time.monotonic() < deadline
                ):
                    time.sleep(random.uniform(0.01, 0.1))
                    continue
                raise self._in_words(error) from error

    def _in_words(self, error: sqlite3.Error) -> DiffmemError:
        code, text = _code(error), str(error)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DamagedDatabaseError(f"{self.path} is damaged ({text}).")
        if self._read_only and code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return DamagedDatabaseError(f"{self.path} cannot be read ({text}).")
        if code == sqlite3.SQLITE_FULL:
            return DiffmemError(f"Cannot write {self.path}: the disk is full. Free some space and try again.")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return DiffmemError(
                f"{self.path} has been kept by other processes for more than {_SECONDS_OF_PATIENCE:g} s; end the one that hangs."
            )
        if code is not None and code not in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE):
            return DiffmemError(f"Cannot use {self.path}: {text}.")
        raise error  # a mistake in this program


def _code(error: sqlite3.Error) -> int | None:
    """Return SQLite's primary code of an error; none for errors of Python's module."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & 0xFF
