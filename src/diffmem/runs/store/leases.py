"""The table of who has which run. A lease is renewed by a heartbeat; one whose owner is dead may be taken over.

An owner is dead if its process is certain to have ended (see `processes`), or if its heartbeat is too old. Heartbeats are
times of the owner's clock, so the clocks of machines that share a store must agree to well within the time to expire; a
heartbeat that does not change while it is watched for that long is too old whatever the clocks say.
"""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from diffmem.runs.store.database import DamagedDatabaseError
from diffmem.runs.store.processes import ProcessId, is_gone, this_process

__all__ = ["LEASES_SCHEMA", "Lease", "Leases"]

LEASES_SCHEMA = (
    "CREATE TABLE leases (run_id TEXT PRIMARY KEY, study TEXT NOT NULL, owner TEXT NOT NULL, host TEXT NOT NULL,"
    " place TEXT NOT NULL, pid INTEGER NOT NULL, start INTEGER, since REAL NOT NULL, heartbeat REAL NOT NULL)"
)
_COLUMNS = "run_id, study, owner, host, place, pid, start, since, heartbeat"
_OURS = "owner = ? AND place = ? AND pid = ? AND start IS ?"


@dataclass(frozen=True)
class Lease:
    """Who has a run.

    Attributes:
        run_id: The run.
        study: What it is wanted for.
        owner: Name of the owner within its process.
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


class Leases:
    """The leases as one owner sees them. Methods that are given a connection expect to be in a transaction.

    Args:
        owner: Tells apart the owners within this process.
        seconds_to_expire: Age of a heartbeat at which its owner counts as dead.
    """

    def __init__(self, owner: str, seconds_to_expire: float) -> None:
        self._owner, self._seconds, self._me = owner, seconds_to_expire, this_process()
        self._watched: dict[str, tuple[str, float, float]] = {}

    def claim(
        self, connection: sqlite3.Connection, run_id: str, study: str
    ) -> tuple[Lease | None, float | None]:
        """Take a lease unless another live owner has it.

        Returns:
            The lease that stood in the way, or that was a dead owner's; none if there was no other. Since when the run is
            ours; none if it is not.
        """
        now = time.time()
        row = connection.execute(f"SELECT {_COLUMNS} FROM leases WHERE run_id = ?", (run_id,)).fetchone()
        if row is not None and self._is_ours(row):
            connection.execute(
                "UPDATE leases SET study = ?, heartbeat = ? WHERE run_id = ?", (study, now, run_id)
            )
            return None, float(row[7])
        other = None if row is None else self._lease(row)
        if other is not None and other.alive:
            return other, None
        self._put(connection, "REPLACE", run_id, study, now, now)
        return other, now

    def restore(self, connection: sqlite3.Connection, held: dict[str, tuple[str, float]]) -> None:
        """Put leases into a database that was made anew, unless others were faster.

        Args:
            connection: The new database.
            held: Study and time of taking of each run that we hold.
        """
        for run_id, (study, since) in held.items():
            self._put(connection, "IGNORE", run_id, study, since, time.time())

    def beat(self, connection: sqlite3.Connection) -> set[str]:
        """Renew all leases of ours and return their runs."""
        found = connection.execute(f"SELECT run_id FROM leases WHERE {_OURS}", self._identity).fetchall()
        connection.execute(f"UPDATE leases SET heartbeat = ? WHERE {_OURS}", (time.time(), *self._identity))
        return {str(row[0]) for row in found}

    def release(self, connection: sqlite3.Connection, run_ids: list[str]) -> None:
        """Give back leases of ours; others' stay."""
        connection.executemany(
            f"DELETE FROM leases WHERE run_id = ? AND {_OURS}",
            [(run_id, *self._identity) for run_id in run_ids],
        )

    def all(self, connection: sqlite3.Connection) -> list[Lease]:
        """Return the leases of all owners."""
        return [
            self._lease(row)
            for row in connection.execute(f"SELECT {_COLUMNS} FROM leases ORDER BY run_id").fetchall()
        ]

    @property
    def _identity(self) -> tuple[str, str, int, int | None]:
        return self._owner, self._me.place, self._me.pid, self._me.start

    def _is_ours(self, row: tuple[Any, ...]) -> bool:
        return (row[2], row[4], row[5], row[6]) == self._identity

    def _put(
        self, connection: sqlite3.Connection, conflict: str, run_id: str, study: str, since: float, now: float
    ) -> None:
        me = self._me
        connection.execute(
            f"INSERT OR {conflict} INTO leases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (run_id, study, self._owner, me.host, me.place, me.pid, me.start, since, now),
        )

    def _lease(self, row: tuple[Any, ...]) -> Lease:
        run_id, study, owner, host, place, pid, start, since, heartbeat = row
        words, numbers = (run_id, study, owner, host, place), (pid, since, heartbeat)
        # SQLite keeps any value in any column, and sees damage of its structure alone.
        if not all(isinstance(word, str) for word in words) or not all(
            isinstance(number, int | float) for number in numbers
        ):
            raise DamagedDatabaseError(f"The index holds a damaged lease, of run {str(run_id)[:40]!r}.")
        alive = self._is_fresh(run_id, owner, heartbeat)
        if alive and not self._is_ours(row):
            alive = not is_gone(ProcessId(host, place, int(pid), start))
        return Lease(run_id, study, owner, host, int(pid), since, heartbeat, alive)

    def _is_fresh(self, run_id: str, owner: str, heartbeat: float) -> bool:
        """Whether a heartbeat is younger than the time to expire, by the clock and as it was watched from here."""
        known = self._watched.get(run_id)
        if known is None or known[:2] != (owner, heartbeat):
            known = self._watched[run_id] = (owner, heartbeat, time.monotonic())
        return max(time.time() - heartbeat, time.monotonic() - known[2]) <= self._seconds
