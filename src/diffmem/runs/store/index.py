"""The index of a run store: what is known of its runs, and who has them. The folders are the truth.

`STORE/index.sqlite` is a cache: it can be lost at any time, and is made anew from `STORE/runs/`. Leases in it say which driver cares
for a run. A lease is renewed by a heartbeat; one whose owner is dead may be taken over. An owner is dead if its process is certain to
have ended (see `workers`), or if its heartbeat is too old. Heartbeats are times of the owner's clock, so the clocks of machines that
share a store must agree to well within the time to expire; a heartbeat that does not change while it is watched for that long is too
old whatever the clocks say.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from diffmem.errors import DiffmemError, UserError
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.store.database import DamagedDatabaseError, Database, read_database
from diffmem.runs.store.folders import RunEntry, read_entries, run_names
from diffmem.runs.store.workers import Lease, ProcessId, is_gone, this_process

__all__ = ["RunIndex", "read_index"]

_T = TypeVar("_T")
_FILE, _VERSION = "index.sqlite", 1
_SCHEMA = (
    "CREATE TABLE runs (run_id TEXT PRIMARY KEY, size INTEGER NOT NULL, seed INTEGER NOT NULL, fingerprint TEXT NOT NULL,"
    " model TEXT NOT NULL, training TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('new', 'training', 'trained')),"
    " images_seen INTEGER NOT NULL, images_total INTEGER NOT NULL, updated REAL NOT NULL, bytes INTEGER NOT NULL,"
    # Notes are numbered, so that one made while folders are read is known from an older one without a clock.
    " noted INTEGER NOT NULL)",
    "CREATE TABLE leases (run_id TEXT PRIMARY KEY, study TEXT NOT NULL, owner TEXT NOT NULL, host TEXT NOT NULL,"
    " place TEXT NOT NULL, pid INTEGER NOT NULL, start INTEGER, since REAL NOT NULL, heartbeat REAL NOT NULL)",
)
_COLUMNS = ", ".join(field.name for field in fields(RunEntry))
_MARKS = ", ".join("?" for _ in fields(RunEntry))
_SECONDS_TO_EXPIRE = 60.0


class RunIndex:
    """The index of a store; a context manager that closes it. For one thread of one process.

    Opening makes the index where it is missing; one that is damaged is set aside, with a warning, and made anew, also when
    that is found later. Runs in the folders that the index does not know are read, and runs whose folders were removed are
    forgotten; reading a folder looks at the size of each file, so that the first opening of a large old store on a network
    takes a while.

    Args:
        store: The store; its runs lie in `runs/`.
        seconds_to_expire: Age of a heartbeat at which its owner counts as dead; `beat` several times as often. The same for
            all who use a store.
        warn: Warned of what was set aside, taken over or left out.
        progress: Reported the folders read while opening.

    Raises:
        UserError: The index was made by a newer version.
        DiffmemError: It cannot be opened or written.
    """

    def __init__(
        self,
        store: Path,
        *,
        seconds_to_expire: float = _SECONDS_TO_EXPIRE,
        warn: Callable[[str], None] = print,
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.store, self._warn, self._owner = store, warn, uuid.uuid4().hex[:12]
        self._watch = _Watch(seconds_to_expire)
        self._held: dict[str, tuple[str, float]] = {}  # study and time of taking of the runs that are ours
        self._database = Database(store / _FILE, _SCHEMA, _VERSION, warn)
        try:
            self._catch_up(progress)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        """Return the index."""
        return self

    def __exit__(self, *details: object) -> None:
        """Close it."""
        self.close()

    def claim(self, run_id: str, study: str) -> bool:
        """Take the lease of a run.

        Args:
            run_id: The run; its folder may be missing.
            study: What it is wanted for, for others who want it.

        Returns:
            Whether it is ours, now or already; false if another live owner has it. A dead owner's is taken over, with
            a warning.

        Raises:
            DiffmemError: The index cannot be written.
        """

        def take(connection: sqlite3.Connection) -> tuple[Lease | None, float | None]:
            """Return who else had it, and since when it is ours."""
            now, held = time.time(), self._watch.leases(connection, run_id).get(run_id)
            ours = held is not None and held.owner == self._owner
            if held is not None and held.alive and not ours:
                return held, None
            since = held.since if held is not None and ours else now
            self._put_lease(connection, "REPLACE", run_id, study, since)
            return None if ours else held, since

        other, since = self._do(take)
        if since is None:
            return False
        self._held[run_id] = study, since
        if other is not None:
            self._warn(
                f"Run {run_id} was left by process {other.pid} on {other.host} ({other.study}), which is gone or silent; it is"
                " taken over."
            )
        return True

    def holders(self) -> dict[str, Lease]:
        """Return who has which run, alive or not, by run."""
        return self._do(self._watch.leases)

    def beat(self) -> list[str]:
        """Renew all our leases.

        Returns:
            The runs that were lost meanwhile, taken over by others; work on them should stop. Each is returned once.

        Raises:
            DiffmemError: The index cannot be written.
        """

        def renew(connection: sqlite3.Connection) -> set[str]:
            connection.execute("UPDATE leases SET heartbeat = ? WHERE owner = ?", (time.time(), self._owner))
            found = connection.execute("SELECT run_id FROM leases WHERE owner = ?", (self._owner,))
            return {str(run_id) for (run_id,) in found}

        lost = sorted(set(self._held) - self._do(renew))
        for run_id in lost:
            del self._held[run_id]
        return lost

    def release(self, run_id: str) -> None:
        """Give a run back; nothing happens if it is not ours."""
        ours = (run_id, self._owner)
        self._do(
            lambda connection: connection.execute("DELETE FROM leases WHERE run_id = ? AND owner = ?", ours)
        )
        self._held.pop(run_id, None)

    def note(self, entry: RunEntry) -> None:
        """Keep what is known of a run in place of what was known; `folders.read_entry` reads it from the folder."""
        self._do(lambda connection: _put(connection, [entry], "REPLACE"))

    def entries(self) -> list[RunEntry]:
        """Return what is known of the runs, ascending in size, seed and name."""
        return self._do(_entries)

    def rebuild(self, progress: Progress = NO_PROGRESS) -> int:
        """Read all folders anew; leases and notes that are made meanwhile are kept.

        Args:
            progress: Reported the folders read.

        Returns:
            How many runs were found.

        Raises:
            DiffmemError: The index cannot be written, or the folder of the runs cannot be read.
        """
        last = self._do(_last_note)
        found = read_entries(self.store, run_names(self.store), self._warn, progress)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM runs WHERE noted <= ?", (last,))
            _put(connection, found, "IGNORE")

        self._do(write)
        return len(found)

    def close(self) -> None:
        """Give all our leases back and close the index; it may be called twice."""
        with suppress(DiffmemError):  # then they expire
            if self._held:
                self._do(
                    lambda connection: connection.execute(
                        "DELETE FROM leases WHERE owner = ?", (self._owner,)
                    )
                )
        self._held.clear()
        self._database.close()

    def _do(self, run: Callable[[sqlite3.Connection], _T]) -> _T:
        """Call a function in one transaction, in the file that is there now."""
        self._database.refresh()
        self._catch_up()
        try:
            return self._database.transaction(run)
        except DamagedDatabaseError as error:
            self._database.refresh(error)
            self._catch_up()
            return self._database.transaction(run)

    def _catch_up(self, progress: Progress = NO_PROGRESS) -> None:
        """Put our leases into a file that was opened, and the runs that it does not know; forget those that are gone."""
        if not self._database.is_new:
            return

        def begin(connection: sqlite3.Connection) -> list[RunEntry]:
            for run_id, (study, since) in self._held.items():
                self._put_lease(connection, "IGNORE", run_id, study, since)
            return _entries(connection)

        known, names = self._database.transaction(begin), set(run_names(self.store))
        # A run that was noted as new need not have a folder yet.
        gone = [(entry.run_id,) for entry in known if entry.state != "new" and entry.run_id not in names]
        missing = sorted(names - {entry.run_id for entry in known})
        found = read_entries(self.store, missing, self._warn, progress)

        def end(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM runs WHERE run_id = ?", gone)
            _put(connection, found, "IGNORE")

        self._database.transaction(end)
        self._database.is_new = False

    def _put_lease(
        self, connection: sqlite3.Connection, conflict: str, run_id: str, study: str, since: float
    ) -> None:
        me = this_process()
        values = (run_id, study, self._owner, me.host, me.machine, me.pid, me.start, since, time.time())
        connection.execute(f"INSERT OR {conflict} INTO leases VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


def read_index(store: Path, warn: Callable[[str], None] = print) -> tuple[list[RunEntry], dict[str, Lease]]:
    """Return what is known of the runs of a store, ascending in size, seed and name, and who has which; change nothing.

    Runs that the index does not know, or all if it cannot be read, are read from the folders; leases are then not known.

    Args:
        warn: Warned of an index that cannot be read, and of folders that are left out.

    Raises:
        UserError: The index was made by a newer version.
        DiffmemError: The folder of the runs cannot be read.
    """
    known: list[RunEntry] = []
    leases: dict[str, Lease] = {}
    if (store / _FILE).exists():
        watch = _Watch(_SECONDS_TO_EXPIRE)
        try:
            known, leases = read_database(
                store / _FILE, _VERSION, lambda found: (_entries(found), watch.leases(found))
            )
        except UserError:
            raise
        except DiffmemError as error:
            warn(f"{error} The folders were read instead.")
    names = set(run_names(store))
    known = [entry for entry in known if entry.run_id in names or entry.state == "new"]
    missing = sorted(names - {entry.run_id for entry in known})
    return _sorted([*known, *read_entries(store, missing, warn)]), leases


class _Watch:
    """Reads leases, and watches which of their owners are alive.

    Args:
        seconds: Age of a heartbeat at which its owner counts as dead.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[str, tuple[str, float, float]] = {}

    def leases(self, connection: sqlite3.Connection, run_id: str | None = None) -> dict[str, Lease]:
        """Return the leases of all owners, by run; of one run alone if it is named."""
        found: dict[str, Lease] = {}
        rows = connection.execute(
            "SELECT run_id, study, owner, host, place, pid, start, since, heartbeat FROM leases"
            " WHERE run_id = coalesce(?, run_id) ORDER BY run_id",
            (run_id,),
        )
        for run, study, owner, host, machine, pid, start, since, beat in rows:
            alive = self._is_fresh(run, owner, beat) and not is_gone(ProcessId(host, machine, pid, start))
            found[run] = Lease(run, study, owner, host, pid, since, beat, alive)
        return found

    def _is_fresh(self, run_id: str, owner: str, heartbeat: float) -> bool:
        """Whether a heartbeat is younger than the time to expire, by the clock and as it was watched from here."""
        seen = self._seen.get(run_id)
        if seen is None or seen[:2] != (owner, heartbeat):
            seen = self._seen[run_id] = (owner, heartbeat, time.monotonic())
        return max(time.time() - heartbeat, time.monotonic() - seen[2]) <= self._seconds


def _put(connection: sqlite3.Connection, entries: Iterable[RunEntry], conflict: str) -> None:
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
    return _sorted(RunEntry(*row) for row in rows)


def _sorted(entries: Iterable[RunEntry]) -> list[RunEntry]:
    return sorted(entries, key=lambda entry: (entry.size, entry.seed, entry.run_id))
