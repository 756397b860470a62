"""What a study has in the queue of a scheduler: the ids of its jobs, kept in its folder, and why they wait, in the scheduler's words.

A study that is killed leaves the file; the next one cancels what still waits or runs from it, so that no work is asked for twice.
`diffmem study status` reads it, too. Nothing here needs Parsl.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from diffmem.errors import DiffmemError, UserError
from diffmem.files import read_json, read_number, write_json
from diffmem.text import count_text, duration_text

__all__ = [
    "FOLDER",
    "JobBook",
    "QueueError",
    "SlurmJob",
    "cancel_left_jobs",
    "job_name",
    "slurm_queue",
    "waiting_for_jobs",
]

FOLDER = "executor"
"""The folder of a pool in that of its study."""
_FILE = "jobs.json"
_SECONDS_OF_A_COMMAND = 60  # of a busy scheduler
_MOST_SECONDS_OLD = 60.0
_LONGEST_NAME = 60


class QueueError(DiffmemError):
    """The scheduler does not answer."""


@dataclass(frozen=True)
class SlurmJob:
    """What squeue says of a job.

    Attributes:
        state: Its state in full, as 'PENDING'.
        reason: Why it waits, in SLURM's words; 'None' if it does not.
        name: The job's.
    """

    state: str
    reason: str
    name: str


@dataclass
class _Job:
    """A job that has not ended.

    Attributes:
        since: When it came into its state, in seconds since 1970.
        reached: Whether a worker of it has reported.
    """

    id: str
    state: Literal["pending", "running"]
    since: float
    reason: str = ""
    reached: bool = False


def job_name(folder: Path) -> str:
    """Return what the names of a study's jobs begin with: the name of its folder, in letters that every scheduler takes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-")[:_LONGEST_NAME] or "diffmem"


def slurm_queue(ids: Collection[str]) -> dict[str, SlurmJob]:
    """Return what SLURM says of jobs; those that it has forgotten are not in it.

    Raises:
        QueueError: SLURM does not answer.
    """
    if not ids:
        return {}
    command = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%j", f"--jobs={','.join(ids)}"]
    found = _run(command)
    if found.returncode and "invalid job id" not in found.stderr.lower():
        raise QueueError(f"squeue fails (exit code {found.returncode}): {_one_line(found.stderr)}")
    rows = (line.strip().split("|", 3) for line in found.stdout.splitlines() if line.count("|") >= 3)
    return {number: SlurmJob(state, reason, name) for number, state, reason, name in rows if number in ids}


def cancel_left_jobs(folder: Path, kind: str) -> list[str]:
    """Cancel the jobs that a study which was killed has left to the scheduler, and return their ids.

    Args:
        folder: Of the pool; nobody else may work with it.
        kind: 'slurm' or 'pbs': the scheduler.

    Raises:
        UserError: The jobs are another scheduler's.
        DiffmemError: The scheduler does not answer.
    """
    path = folder / _FILE
    left = [str(job["id"]) for job in _read(path).get("jobs", [])]
    if left:
        of = _read(path).get("kind")
        if of != kind:
            raise UserError(
                f"{path} names jobs of the last session, which ran with executor.kind = {of}: {', '.join(left)}. See to it that they"
                " are gone from its queue, then remove that file."
            )
        if kind == "slurm":
            # A number can have come to another job since.
            known = slurm_queue(left)
            begin = f"{_read(path).get('name')}."
            left = [number for number in left if number in known and known[number].name.startswith(begin)]
        for number in left:
            # One after the other: of jobs that have ended meanwhile, the command complains.
            _run(["scancel" if kind == "slurm" else "qdel", number])
    path.unlink(missing_ok=True)
    return left


def waiting_for_jobs(folder: Path) -> str:
    """Return what a study waits for, from its folder; '' if nothing, or if the study does not go on."""
    path = folder / FOLDER / _FILE
    if time.time() - read_number(path, "time") > _MOST_SECONDS_OLD:
        return ""
    return str(_read(path).get("waiting", ""))


class JobBook:
    """The jobs of a pool that have not ended, kept in a file from the moment they are submitted.

    Args:
        folder: Of the pool.
        kind: The scheduler's.
        name: Of the jobs.
    """

    def __init__(self, folder: Path, kind: str, name: str) -> None:
        self._path, self._kind, self.name = folder / _FILE, kind, name
        self._jobs: dict[str, _Job] = {}
        self.trouble = ""

    @property
    def ids(self) -> list[str]:
        """Return the ids of the jobs that have not ended, in the order of submission."""
        return list(self._jobs)

    def add(self, number: str) -> None:
        """Take note of a job that was submitted."""
        self._jobs[number] = _Job(number, "pending", time.time())
        self._write()

    def remove(self, numbers: Iterable[str]) -> None:
        """Take note of jobs that have ended; without any left, the file is removed."""
        for number in numbers:
            self._jobs.pop(number, None)
        self._write()

    def look(
        self, states: Mapping[str, tuple[Literal["pending", "running"], str]], reached: Collection[str]
    ) -> None:
        """Take note of how the jobs are.

        Args:
            states: Id -> state, and the reason why it waits.
            reached: The jobs of which a worker has reported.
        """
        for number, (state, reason) in states.items():
            job = self._jobs.get(number)
            if job is not None:
                if job.state != state:
                    job.state, job.since = state, time.time()
                job.reason, job.reached = reason, number in reached
        self._write()

    @property
    def waiting(self) -> str:
        """Return what is waited for and why: '2 jobs pending: Resources; job 4711, 3 min 05 s'; '' if nothing."""
        jobs = list(self._jobs.values())  # at once: a thread of Parsl adds and removes them
        pending = [job for job in jobs if job.state == "pending"]
        silent = [job for job in jobs if job.state == "running" and not job.reached]
        parts = [self.trouble] if self.trouble else []
        if pending:
            reasons = sorted({job.reason for job in pending} - {"", "None"})
            parts.append(
                f"{count_text(len(pending), 'job')} pending{': ' if reasons else ''}{', '.join(reasons)}{_first(pending)}"
            )
        if silent:
            parts.append(
                f"{count_text(len(silent), 'job')} running, no word from its workers yet{_first(silent)}"
            )
        return "; ".join(parts)

    def _write(self) -> None:
        if not self._jobs:
            self._path.unlink(missing_ok=True)
            return
        content = {
            "kind": self._kind,
            "name": self.name,
            "time": time.time(),
            "waiting": self.waiting,
            "jobs": [asdict(job) for job in self._jobs.values()],
        }
        with suppress(DiffmemError):  # a full disk is told by what the study itself writes
            write_json(self._path, content)


def _first(jobs: list[_Job]) -> str:
    first = min(jobs, key=lambda job: job.since)
    return f"; job {first.id}, {duration_text(time.time() - first.since)}"


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = read_json(path)
    return content if isinstance(content, dict) else {}


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS_OF_A_COMMAND,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise QueueError(f"{command[0]} fails: {error}") from error


def _one_line(text: str) -> str:
    return " ".join(text.split()) or "no message"
