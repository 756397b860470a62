"""A cache in SQLite that several processes use: they wait for each other, and it is made anew where it is damaged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from diffmem.errors import DiffmemError, UserError
from diffmem.files import locked_file

__all__ = ["DamagedDatabaseError", "Database", "read_database"]

_T = TypeVar("_T")
_APPLICATION = 0x64666D6D  # "dfmm": distinguishes this package's databases from others of the same name
_SECONDS_TO_WAIT = 60.0


class DamagedDatabaseError(DiffmemError):
    """The file is no database of this version, or a damaged one."""


class Database:
    """A database that is made where it is missing, and renamed to `<name>.damaged` and made anew where it cannot be used.

    What it holds can be lost at any time; `is_new` says that it was. It has a rollback journal and no write-ahead log, which does
    not work between machines.

    Args:
        path: The file; its folder is made if missing.
        schema: Statements that make the tables.
        version: Number of this schema, from 1.
        warn: Warned of a database that was made anew.

    Attributes:
        is_new: Whether another file is there than before, or none was; its user sets it to false.

    Raises:
        UserError: The database has a newer schema.
        DiffmemError: It cannot be opened or written.
    """

    def __init__(
        self, path: Path, schema: Sequence[str], version: int, warn: Callable[[str], None] = print
    ) -> None:
        self.path, self._schema, self._version, self._warn = path, schema, version, warn
        self._connection: sqlite3.Connection | None = None
        self._open()

    def close(self) -> None:
        """Close it; a further transaction raises an error."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def transaction(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Call a function in one transaction, alone among all who write; return what it returns.

        Raises:
            DamagedDatabaseError: The file is damaged.
            DiffmemError: The disk is full, the file cannot be written, or others kept it for longer than a minute.
        """
        if self._connection is None:
            raise DiffmemError(f"{self.path} is closed.")
        with _as_text(self.path), self._connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            return run(connection)

    def refresh(self, damage: DamagedDatabaseError | None = None) -> None:
        """Open the file that is there, if another one is open, which was removed or renamed.

        Args:
            damage: Found in the file that is open, which is then made anew unless another process did that.

        Raises:
            DiffmemError: As when it is made.
        """
        if self._connection is not None and (damage is not None or _identity(self.path) != self._file):
            self.close()
            self._open(damage)

    def _open(self, damage: DamagedDatabaseError | None = None) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiffmemError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        try:
            if damage is not None:
                raise damage
            self._connect()
        except DamagedDatabaseError as error:
            self._rename(error)
            self._connect()
        self.is_new = True

    def _connect(self) -> None:
        with _as_text(self.path), ExitStack() as failure:
            # Known before it is opened: another process may set a damaged one aside and make a new one at any time.
            known = _identity(self.path)
            connection = failure.enter_context(closing(_connected(self.path, "rwc")))
            self._file = known or _identity(self.path)
            # A power cut may damage it, and then it is made anew.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA journal_mode=DELETE")  # earlier versions had a write-ahead log
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if not _check(connection, self.path, self._version):
                    for statement in self._schema:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA application_id={_APPLICATION}")
                    connection.execute(f"PRAGMA user_version={self._version}")
            failure.pop_all()
        self._connection = connection

    def _rename(self, damage: DamagedDatabaseError) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        try:
            with locked_file(aside.with_name(f"{aside.name}.lock"), _SECONDS_TO_WAIT):
                damaged = _identity(self.path) == self._file  # or another process has made a new one
                if damaged:
                    self.path.replace(aside)
        except TimeoutError as error:
            raise DiffmemError(_kept_by_others(self.path)) from error
        except OSError as error:
            raise DiffmemError(f"Cannot rename {self.path}: {error.strerror or error}.") from error
        if damaged:
            self._warn(f"{damage} It was set aside as {aside.name} and is rebuilt from the folders.")


def read_database(path: Path, version: int, run: Callable[[sqlite3.Connection], _T]) -> _T:
    """Call a function that reads a database and changes nothing; return what it returns.

    Raises:
        UserError: It has a newer schema.
        DiffmemError: It is damaged, of an older schema or another program, or cannot be read.
    """
    with _as_text(path), closing(_connected(path, "ro")) as connection:
        if not _check(connection, path, version):
            raise DamagedDatabaseError(f"{path} is empty.")
        return run(connection)


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    # Transactions begin where this file says.
    connection = sqlite3.connect(uri, uri=True, timeout=_SECONDS_TO_WAIT, isolation_level=None)
    # Text for people, in which damage must not stop everything.
    connection.text_factory = lambda raw: raw.decode(errors="replace")
    return connection


def _check(connection: sqlite3.Connection, path: Path, version: int) -> bool:
    """Return whether a database can be used, or is empty.

    Raises:
        DamagedDatabaseError: It is damaged, another program's, or has an older schema.
        UserError: It has a newer schema.
    """
    found = " ".join(str(row[0]) for row in connection.execute("PRAGMA quick_check(1)"))
    if found != "ok":
        raise DamagedDatabaseError(f"{path} is damaged ({found}).")
    (theirs,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables and not theirs:
        return False
    if application != _APPLICATION or theirs < version:
        raise DamagedDatabaseError(f"{path} is not an index of this version.")
    if theirs > version:
        raise UserError(
            f"{path} was made by a newer version of diffmem (its schema is {theirs}, this version knows {version}); use that"
            " version, or remove the file: it is rebuilt from the folders."
        )
    return True


@contextmanager
def _as_text(path: Path) -> Iterator[None]:
    """Turn errors of SQLite into errors of this package, but for mistakes in this program."""
    try:
        yield
    except sqlite3.Error as error:
        # Errors of Python's module have no code.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
        if (
            code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
            or code == sqlite3.SQLITE_READONLY_DBMOVED
        ):
            raise DamagedDatabaseError(f"{path} is damaged ({error}).") from error
        if code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise DiffmemError(_kept_by_others(path)) from error
        if code & 0xFF in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE):
            raise
        raise DiffmemError(f"Cannot use {path}: {error}. Mend that and try again.") from error


def _kept_by_others(path: Path) -> str:
    return f"{path} has been kept by other processes for more than {_SECONDS_TO_WAIT:g} s; end the one that hangs."


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino
