"""Runs that one process does together: trained as a group, each evaluated at its own points, each with its own folder.

A group of one is a run by itself: there is no other way in which runs are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from diffmem.memorization.features import Features, open_features
from diffmem.models.denoiser import Denoiser
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.recipe import MeasureConfig
from diffmem.runs.run import Run
from diffmem.runs.trained import snapshots_together
from diffmem.sampling import SamplerConfig

__all__ = ["Job", "execute_together"]

Job = tuple[Run, SamplerConfig, MeasureConfig]
"""A run and how it is evaluated."""


class _Member:
    """A run that is at work: what of it is done, and what is said of that."""

    def __init__(self, job: Job, device: torch.device | str, warn: Callable[[str], None]) -> None:
        self.run, self._sampling, self._measure = job
        self._device, self._warn = device, warn
        self._features: Features | None = None  # opened before hours of training: they may be missing
        if self._measure.frechet is not None:
            self._features = open_features(self._measure.frechet, device)
        store = self.run.evaluation_store(self._sampling, self._measure.samples)
        self._measured = {seen for seen in self.run.points if store.path(seen).exists()}
        self._each = self.run.sampling_units(self._sampling, self._measure)
        self._trained = 0.0
        self.done, self.total = 0.0, self.run.total_units(self._sampling, self._measure)
        self.tell: Callable[[], None] = lambda: None

    @property
    def epoch(self) -> float:
        """How often it has seen its images."""
        return self._trained / len(self.run.training_set)

    def report(self, done: float, total: float = 0.0, note: str = "", *, more: float = 0.0) -> None:
        """Take note of the images trained on, and the part of an evaluation that is done."""
        self._trained = done
        self.done = done + self._each * (len(self._measured) + more)
        self.tell()

    def evaluate(self, seen: int, trained: float, denoiser: Denoiser | None = None) -> None:
        """Evaluate a snapshot, unless that is done already."""
        self._measured.discard(seen)
        self.run.evaluate(
            seen, self._sampling, self._measure.samples, self._features, denoiser=denoiser, device=self._device,
            progress=lambda made, total, note="": self.report(trained, more=made / total), warn=self._warn,
        )  # fmt: skip
        self._measured.add(seen)
        self.report(trained)

    def end(self) -> None:
        """Do what is left after training."""
        for seen in self.run.points:
            self.evaluate(seen, self.run.points[-1])
        self.run.measure_null(device=self._device, warn=self._warn)


def execute_together(
    jobs: Sequence[Job],
    *,
    device: torch.device | str = "cpu",
    progress: Progress = NO_PROGRESS,
    warn: Callable[[str], None] = print,
) -> None:
    """Train and evaluate whatever is not done yet of several runs, which are trained as a group.

    Args:
        jobs: Different runs; several only of one architecture (see `TrainerGroup`).
        progress: Reported units of work of all of them, in images trained (generating counts by its network evaluations).
        warn: Warned of damaged files that are made anew.

    Raises:
        UserError: The runs cannot be trained as a group.
        DiffmemError: Training diverged, features cannot be loaded, another process works in a folder, or a file cannot be
            written.
        KeyboardInterrupt: A stop was requested; the states are saved.
    """
    for run, _, _ in jobs:
        run.check_distinct()  # before anything is written
    members: list[_Member] = []
    keep: dict[_Member, Progress] = {}
    folders: dict[_Member, ExitStack] = {}

    def tell() -> None:
        for member, report in keep.items():  # all, so that none seems to be dead while another is evaluated
            report(member.done, member.total)
        newest = max(members, key=lambda member: member.total - member.done)
        note = f"{len(keep)} trainings together, " if len(keep) > 1 else ""
        note += f"epoch {newest.epoch:,.0f}"
        progress(sum(member.done for member in members), sum(member.total for member in members), note)

    def end(member: _Member) -> None:
        if member in keep:
            member.end()
            del keep[member]
            folders[member].close()

    with ExitStack() as stack:
        for job in jobs:
            # The lock first: what is done is only known while nobody else works there.
            folder = stack.enter_context(ExitStack())
            report = folder.enter_context(job[0].at_work(NO_PROGRESS, float(len(jobs))))
            member = _Member(job, device, warn)
            members.append(member)
            keep[member], folders[member] = report, folder
        for member in members:
            member.tell = tell
        by_run = {member.run.run_id: member for member in members}
        trained = [member for member in members if member.run.model.is_trained]
        runs = [member.run for member in trained]
        reports: list[Progress] = [member.report for member in trained]
        for run, seen, denoiser in snapshots_together(runs, reports, device=device, warn=warn):
            member = by_run[run.run_id]
            member.evaluate(seen, seen, denoiser)
            if seen == run.points[-1]:
                end(member)
        for member in members:
            if not member.run.model.is_trained:
                member.run.write_config()
            end(member)
