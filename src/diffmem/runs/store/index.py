"""The index of a run store: what is known of its runs, and who has them. The folders are the truth.

`STORE/index.sqlite` can be lost at any time: it is made anew from `STORE/runs/`. On a disk of one machine it is in SQLite's WAL
mode, on anything that machines share (NFS, Lustre, GPFS, CIFS, ...) in DELETE mode, since WAL does not work between machines.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from diffmem.errors import DiffmemError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.store.database import DamagedDatabaseError, Database
from diffmem.runs.store.folders import RunEntry, read_entries, run_names
from diffmem.runs.store.leases import LEASES_SCHEMA, Lease, Leases

__all__ = ["Lease", "RunEntry", "RunIndex"]

_T = TypeVar("_T")
_FILE, _VERSION = "index.sqlite", 1
_SCHEMA = (
    "CREATE TABLE runs (run_id TEXT PRIMARY KEY, size INTEGER NOT NULL, seed INTEGER NOT NULL, fingerprint TEXT NOT NULL,"
    " model TEXT NOT NULL, training TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('new', 'training', 'trained')),"
    " images_seen INTEGER NOT NULL, images_total INTEGER NOT NULL, updated REAL NOT NULL, bytes INTEGER NOT NULL,"
    # Notes are numbered, so that one made while folders are read is known from an older one without a clock.
    " noted INTEGER NOT NULL)",
    LEASES_SCHEMA,
)
_COLUMNS = ", ".join(field.name for field in fields(RunEntry))
_MARKS = ", ".join("?" for _ in fields(RunEntry))


class RunIndex:
    """The index of a store; a context manager that closes it. Threads of one process may share it; forked processes not.

    Opening makes the index where it is missing; one that is damaged is set aside as `index.sqlite.damaged-<n>`, which is told,
    and made anew, also when that is found later. Runs in the folders that the index does not know are read, and runs whose
    folders were removed are forgotten; reading a folder looks at the size of each file, so that the first opening of a large
    old store on a network takes a while.

    Args:
        store: The store; its runs lie in `runs/`.
        owner: Tells apart owners of leases within this process: indexes of the same owner share theirs. By default each
            index is an owner of its own. In different processes equal names are different owners.
        seconds_to_expire: Age of a heartbeat at which its owner counts as dead; `beat` several times as often. The same for
            all who use a store.
        read_only: Write nothing. What cannot be read from the index is read from the folders; leases are then not known.
        warn: Told of what was set aside, taken over or left out.
        progress: Told the folders read while opening.

    Raises:
        UserError: The index was made by a newer version.
        DiffmemError: It cannot be opened or written.
    """

    def __init__(
        self,
        store: Path,
        *,
        owner: str | None = None,
        seconds_to_expire: float = 60.0,
        read_only: bool = False,
        warn: Callable[[str], None] = print,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.store, self._read_only, self._warn = store, read_only, warn
        self._leases = Leases(owner or uuid.uuid4().hex[:12], seconds_to_expire)
        self._held: dict[str, tuple[str, float]] = {}
        self._guard = threading.RLock()
        self._behind = not read_only  # whether the file lacks what this index knows
        self._database: Database | None = None
        if read_only and not (store / _FILE).exists():
            return
        try:
            self._database = Database(store / _FILE, _SCHEMA, _VERSION, read_only=read_only, warn=warn)
        except DamagedDatabaseError as error:  # of a database that must be left as it is
            warn(f"{error} The folders were read instead.")
            return
        if not read_only:
            try:
                self._catch_up(progress)
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Self:
        """Return the index."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def claim(self, run_id: str, study: str) -> bool:
        """Take the lease of a run.

        Args:
            run_id: The run; its folder may be missing.
            study: What it is wanted for, told to others who want it.

        Returns:
            Whether it is ours, now or already; false if another live owner has it. A dead owner's is taken over, which is
            told.

        Raises:
            DiffmemError: The index cannot be written.
        """
        with self._guard:
            other, since = self._write(lambda connection: self._leases.claim(connection, run_id, study))
            if since is not None:
                self._held[run_id] = (study, since)
        if since is not None and other is not None:
            self._warn(
                f"Run {run_id} was left by process {other.pid} on {other.host} ({other.study}), which is gone or silent; it is"
                " taken over."
            )
        return since is not None

    def holder(self, run_id: str) -> Lease | None:
        """Return who has a run, alive or not; none if nobody has, or if the index cannot be read."""
        return self.holders().get(run_id)

    def holders(self) -> dict[str, Lease]:
        """Return who has which run, alive or not, by run; empty if the index cannot be read."""
        nobody: list[Lease] = []
        return {lease.run_id: lease for lease in self._looked_up(self._leases.all, nobody)}

    def beat(self) -> list[str]:
        """Renew all our leases.

        Returns:
            The runs that were lost meanwhile, taken over by others; work on them should stop. Each is told once.

        Raises:
            DiffmemError: The index cannot be written.
        """
        with self._guard:
            renewed = self._write(self._leases.beat)
            lost = sorted(set(self._held) - renewed)
            for run_id in lost:
                del self._held[run_id]
        return lost

    def release(self, run_id: str) -> None:
        """Give a run back; nothing happens if it is not ours."""
        with self._guard:
            self._write(lambda connection: self._leases.release(connection, [run_id]))
            self._held.pop(run_id, None)

    def note(self, entry: RunEntry) -> None:
        """Keep what is known of a run in place of what was known; `folders.read_entry` reads it from the folder."""
        self._write(lambda connection: self._put(connection, [entry], "REPLACE"))

    def entries(self) -> list[RunEntry]:
        """Return what is known of the runs, ascending in size, seed and name."""
        nothing: list[RunEntry] = []
        known = self._looked_up(_entries, nothing)
        if self._read_only:
            names, found = set(run_names(self.store)), {entry.run_id for entry in known}
            known = [entry for entry in known if entry.run_id in names or entry.state == "new"]
            known += read_entries(self.store, sorted(names - found), self._warn)
        return sorted(known, key=lambda entry: (entry.size, entry.seed, entry.run_id))

    def rebuild(self, progress: Progress = NO_PROGRESS) -> int:
        """Read all folders anew; leases and notes that are made meanwhile are kept.

        Args:
            progress: Told the folders read.

        Returns:
            How many runs were found.

        Raises:
            DiffmemError: The index cannot be written, or the folder of the runs cannot be read.
        """
        last = self._write(_last_note)
        found = read_entries(self.store, run_names(self.store), self._warn, progress)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM runs WHERE noted <= ?", (last,))
            self._put(connection, found, "IGNORE")

        self._write(write)
        return len(found)

    def close(self) -> None:
        """Give all our leases back and close the index; it may be called twice."""
        with self._guard:
            if self._database is None:
                return
            if self._held:
                held = list(self._held)
                with suppress(DiffmemError):  # then they expire
                    self._write(lambda connection: self._leases.release(connection, held))
                self._held.clear()
            self._database.close()
            self._database = None

    def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        if self._read_only:
            raise DiffmemError(f"{self.store / _FILE} was opened for reading only.")
        return self._do(work)

    def _do(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do some work as one transaction, in the file that is there now."""
        with self._guard:
            if self._database is None:
                raise DiffmemError(f"{self.store / _FILE} is closed.")
            self._behind |= self._database.reopen_if_replaced()
            if self._behind:
                self._catch_up()
            try:
                return self._database.transaction(work)
            except DamagedDatabaseError:
                if self._read_only:
                    raise
                self._behind = True
                self._database.set_aside()
                self._catch_up()
                return self._database.transaction(work)

    def _looked_up(self, work: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """Do some reading; an index that cannot be read, and must be left as it is, knows nothing."""
        with self._guard:
            if self._database is None and self._read_only:
                return otherwise
            try:
                return self._do(work)
            except DamagedDatabaseError as error:
                if not self._read_only or self._database is None:
                    raise
                self._warn(f"{error} The folders were read instead.")
                self._database.close()
                self._database = None
                return otherwise

    def _catch_up(self, progress: Progress = NO_PROGRESS) -> None:
        """Put our leases into a file that was opened, and the runs that it does not know; forget those that are gone."""
        database = self._database
        if database is None or self._read_only:
            return

        def begin(connection: sqlite3.Connection) -> dict[str, str]:
            self._leases.restore(connection, self._held)
            return {
                str(name): str(state) for name, state in connection.execute("SELECT run_id, state FROM runs")
            }

        known, names = database.transaction(begin), run_names(self.store)
        missing = [name for name in names if name not in known]
        # A run that was noted as new need not have a folder yet.
        gone = [name for name, state in known.items() if state != "new" and name not in set(names)]
        found = read_entries(self.store, missing, self._warn, progress)

        def end(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM runs WHERE run_id = ?", [(name,) for name in gone])
            self._put(connection, found, "IGNORE")

        if gone or found:
            database.transaction(end)
        self._behind = False

    def _put(self, connection: sqlite3.Connection, entries: Iterable[RunEntry], conflict: str) -> None:
        number = _last_note(connection) + 1
        connection.executemany(
            f"INSERT OR {conflict} INTO runs ({_COLUMNS}, noted) VALUES ({_MARKS}, ?)",
            [(*astuple(entry), number) for entry in entries],
        )


def _last_note(connection: sqlite3.Connection) -> int:
    (number,) = connection.execute("SELECT coalesce(max(noted), 0) FROM runs").fetchone()
    return int(number)


def _entries(connection: sqlite3.Connection) -> list[RunEntry]:
    rows: list[tuple[Any, ...]] = connection.execute(f"SELECT {_COLUMNS} FROM runs").fetchall()
    return [_entry(row) for row in rows]


def _entry(row: tuple[Any, ...]) -> RunEntry:
    """Return the entry of a row; SQLite keeps any value in any column, and sees damage of its structure alone."""
    entry = RunEntry(*row)
    words = (entry.run_id, entry.fingerprint, entry.model, entry.training, entry.state)
    numbers = (entry.size, entry.seed, entry.images_seen, entry.images_total, entry.bytes)
    if not all(isinstance(word, str) for word in words) or not all(isinstance(n, int) for n in numbers):
        raise DamagedDatabaseError(f"The index holds a damaged entry, of run {str(entry.run_id)[:40]!r}.")
    return entry
