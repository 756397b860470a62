"""The jobs in which Parsl's workers run: how many there are to be, what the scheduler says of them, and what ended before it worked.

Parsl's own strategies cancel a job that waits in the queue as an idle one, or keep idle ones for as long as anything runs.
So its strategy is 'none', and what it calls after each look at its jobs (`block_error_handler`) asks for jobs and gives idle ones
back. Providers are Parsl's; that of SLURM reads why a job waits, and survives that SLURM has forgotten one. Imports Parsl.
"""

from __future__ import annotations

import math
import queue
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from parsl.executors import HighThroughputExecutor
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import JobState, JobStatus
from parsl.providers import PBSProProvider, SlurmProvider
from parsl.providers.cluster_provider import ClusterProvider
from parsl.providers.errors import SubmitException

from diffmem.errors import DiffmemError
from diffmem.executors.jobs import JobBook, QueueError, slurm_queue

__all__ = ["SECONDS_BETWEEN_LOOKS", "JobWatch", "PbsJobs", "SlurmJobs"]

SECONDS_BETWEEN_LOOKS = 5  # at the queue
_SECONDS_IDLE = 120.0
_SECONDS_AFTER_A_FAILURE = 10.0
_MOST_FAILURES = 3
_LONGEST_OUTPUT = 600
_LOOKS_TO_BE_FORGOTTEN = 2
_PENDING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
)
# A job that completes has no workers any more.
_RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING")


class _Noted(ClusterProvider):
    """A provider of Parsl that names its jobs after the study and notes each the moment it is submitted."""

    book: JobBook

    def submit(self, command: str, tasks_per_node: int, job_name: str = "") -> str:
        """Submit a job and return its id.

        Raises:
            DiffmemError: The scheduler refuses it.
        """
        try:
            number = str(super().submit(command, tasks_per_node, self.book.name))  # type: ignore[safe-super]
        except SubmitException as error:
            words = _last_lines(f"{error.stderr or ''}\n{error.stdout or ''}")
            raise DiffmemError(words or "the scheduler took no job and said nothing") from error
        self.book.add(number)
        return number

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two looks at the queue."""
        return SECONDS_BETWEEN_LOOKS


class PbsJobs(_Noted, PBSProProvider):
    """Jobs of PBS, whose qstat tells everything of each at each look."""

    @property
    def status_polling_interval(self) -> int:
        """Seconds between two looks at the queue."""
        return 2 * SECONDS_BETWEEN_LOOKS


class SlurmJobs(_Noted, SlurmProvider):
    """Jobs of SLURM, as squeue shows them: of one that waits, the message is the reason; of one that ended, its last state."""

    def status(self, job_ids: Sequence[Any]) -> list[JobStatus]:
        """Return how jobs are. What SLURM has forgotten has ended; while it does not answer, all is as before."""
        last: dict[str, tuple[JobState, str]] = self.__dict__.setdefault("_last", {})
        missed: Counter[str] = self.__dict__.setdefault("_missed", Counter())
        live = [
            each
            for each in job_ids
            if last.get(each, (JobState.PENDING, ""))[0] in (JobState.PENDING, JobState.RUNNING)
        ]
        try:
            found = slurm_queue(live)
        except QueueError as error:
            self.book.trouble = str(error)
        else:
            self.book.trouble = ""
            for number in live:
                job = found.get(number)
                missed[number] = 0 if job is not None else missed[number] + 1
                if job is None:
                    if missed[number] >= _LOOKS_TO_BE_FORGOTTEN:
                        last[number] = JobState.COMPLETED, "gone from the queue"
                elif job.state in _PENDING:
                    last[number] = JobState.PENDING, job.reason
                elif job.state in _RUNNING:
                    last[number] = JobState.RUNNING, ""
                else:
                    last[number] = JobState.COMPLETED, job.state
        return [self._status_of(each, *last.get(each, (JobState.PENDING, ""))) for each in job_ids]

    def _status_of(self, number: str, state: JobState, message: str) -> JobStatus:
        paths = self.resources[number]
        # Made anew each time: Parsl writes into it.
        return JobStatus(
            state, message or None, stdout_path=paths["job_stdout_path"], stderr_path=paths["job_stderr_path"]
        )


class JobWatch:
    """What Parsl calls after each look at the jobs of an executor: notes how they are, and sees to it that there are enough.

    There are as many jobs as the tasks that wait or run need, up to the provider's most. A job that nothing needs, as it
    waits or is idle, is cancelled after two minutes. One that ends before a worker of it has reported is told; three in a row
    are the end.

    Args:
        book: Where the jobs are noted.
        scales: Whether to ask for jobs and cancel them; if not, Parsl's strategy does.

    Attributes:
        failure: Why no job can work, once that is clear.
    """

    def __init__(self, book: JobBook, *, scales: bool) -> None:
        self.book, self._scales = book, scales
        self.failure: DiffmemError | None = None
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ended: dict[str, str] = {}  # block -> why it never worked; '' if it did
        self._not_before = 0.0
        self._spare_since: float | None = None

    def __call__(self, executor: BlockProviderExecutor, status: Mapping[str, JobStatus]) -> None:
        """Do what is to be done.

        Args:
            status: Block -> how its job is.
        """
        executor = cast(HighThroughputExecutor, executor)
        managers = executor.connected_managers()
        live = {block: one for block, one in status.items() if not one.terminal}
        self._note(executor, status, {manager["block_id"] for manager in managers})
        for block in sorted(set(status) - set(live) - set(self._ended), key=int):
            self._on_end(executor.blocks_to_job_id.get(block), block, status[block])
        if self._scales and self.failure is None:
            self._scale(executor, live, managers)

    def close(self) -> None:
        """Ask for no more jobs."""
        self._scales = False

    def tell(self, text: str) -> None:
        """Add a message for `news`."""
        self._news.put(text)

    def news(self) -> list[str]:
        """Return what has happened since the last call."""
        found = []
        while not self._news.empty():
            found.append(self._news.get())
        return found

    def _note(
        self, executor: HighThroughputExecutor, status: Mapping[str, JobStatus], reached: set[str]
    ) -> None:
        ids = dict(executor.blocks_to_job_id)
        known: set[str] = set(self.book.ids)
        states: dict[str, tuple[Literal["pending", "running"], str]] = {}
        ended = []
        for block, one in status.items():
            number = None if block not in ids else str(ids[block])
            if number is None:
                continue
            if one.terminal:
                ended.append(number)
                continue
            if number not in known:
                self.book.add(number)
            states[number] = ("running" if one.state == JobState.RUNNING else "pending"), one.message or ""
        self.book.remove(ended)
        self.book.look(states, {str(ids[block]) for block in reached if block in ids})

    def _on_end(self, number: object, block: str, status: JobStatus) -> None:
        """Take note of a job that has ended, and tell of one that did so before it could work."""
        if status.state not in (JobState.FAILED, JobState.MISSING):
            self._ended[block] = ""
            return
        output = _last_lines(status.stderr_summary or "") or _last_lines(status.stdout_summary or "")
        if number is None:
            why = re.sub(r"^Failed to start block \d+: ", "", status.message or "no message")
            text = f"The scheduler takes no job: {why}"
        else:
            state = "" if status.message is None or "MISSING" in status.message else f" ({status.message})"
            why = output or f"it wrote nothing{state}"
            text = f"Job {number} ended{state} before a worker of it had reported: {why}"
        self._ended[block] = why
        self._not_before = time.monotonic() + _SECONDS_AFTER_A_FAILURE
        last = [self._ended[each] for each in sorted(self._ended, key=int)][-_MOST_FAILURES:]
        if len(last) == _MOST_FAILURES and all(last):
            reasons = "; ".join({_gist(each): each for each in last}.values())
            self.failure = DiffmemError(f"{_MOST_FAILURES} jobs in a row could not start a worker: {reasons}")
        elif _gist(why) not in map(_gist, last[:-1]):
            self.tell(text)

    def _scale(
        self,
        executor: HighThroughputExecutor,
        live: Mapping[str, JobStatus],
        managers: Sequence[Mapping[str, Any]],
    ) -> None:
        provider = executor.provider
        assert provider is not None
        # Jobs near their time limit take no more tasks.
        closing = {each["block_id"] for each in managers if each["draining"] or not each["active"]}
        tasks = Counter[str]()
        idle: dict[str, float] = {}
        for each in managers:
            block = each["block_id"]
            tasks[block] += each["tasks"]
            idle[block] = min(each["idle_duration"], idle.get(block, math.inf))
        places = max(1, int(executor.workers_per_node)) * provider.nodes_per_block
        outstanding = executor.outstanding() - sum(tasks[block] for block in closing)
        needed = min(math.ceil(max(0, outstanding) / places), provider.max_blocks)
        taking = [block for block in live if block not in closing]
        now = time.monotonic()
        if needed <= len(taking):
            spare = [
                block for block in taking if not tasks[block] and idle.get(block, math.inf) > _SECONDS_IDLE
            ][: len(taking) - needed]
            self._spare_since = None if not spare else self._spare_since or now
            if self._spare_since is not None and now - self._spare_since > _SECONDS_IDLE:
                executor.scale_in_facade(len(spare), max_idletime=_SECONDS_IDLE)
            return
        self._spare_since = None
        more = min(needed - len(taking), provider.max_blocks - len(live))
        if more > 0 and now >= self._not_before:
            executor.scale_out_facade(more)


def _gist(text: str) -> str:
    """Return a text without its numbers, such as a job's, so that what says the same is told once."""
    return re.sub(r"\d+", "", text)


def _last_lines(text: str) -> str:
    """Return the end of an output in one line, without repetitions."""
    lines = dict.fromkeys(" ".join(line.split()) for line in text.splitlines())
    return " / ".join(line for line in lines if line)[-_LONGEST_OUTPUT:]
