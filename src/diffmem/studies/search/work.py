"""One training of a search: trained and sampled until its verdict is known, in the folder of its run.

`work_on_size` is what a worker process calls, with paths and settings alone. Whatever it is killed in, the next call goes on to
the same verdict: every decision is a function of the images that are stored.

Evaluations grow: the images of one evaluation point lie in parts, each stored and checksummed like an evaluation of its own. A
part is named by the seed of its first image. The parts that count are those that follow one another from seed 0; whatever lies
behind a gap (a damaged part that was removed) is made again before it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.memorization import Neighbours, RatioRule
from diffmem.memorization.rates import Rate
from diffmem.models.denoiser import Denoiser
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.runs.evaluations import EvaluationStore, StoredEvaluation, read_null, summary
from diffmem.runs.recipe import StudyRecipe
from diffmem.runs.records import Evaluation, RunRecord
from diffmem.runs.run import Run
from diffmem.runs.store.repairs import note_repair
from diffmem.settings import config_hash
from diffmem.studies.search.choice import Outcome, outcome_of
from diffmem.studies.search.confidence import anytime_interval
from diffmem.studies.search.decisions import Counts, StoppingRule, TrainingState
from diffmem.studies.search.recipe import AdaptiveRecipe, recipe_of
from diffmem.studies.tasks import opened_sets

__all__ = ["Parts", "SizeRun", "counts_of", "work_on_size"]


@dataclass(frozen=True, kw_only=True)
class SizeRun(Run):
    """A run whose evaluations grow until its size is decided; the other attributes are those of `TrainedRun`.

    Attributes:
        recipe: Of the search: says when sampling and training stop.
        level: Its level: says how images are generated, and which of them are memorized.
    """

    recipe: AdaptiveRecipe
    level: StudyRecipe

    @cached_property
    def memorized(self) -> RatioRule:
        """The rule by which an image is memorized."""
        return RatioRule(self.level.measure.threshold)

    @cached_property
    def stopping(self) -> StoppingRule:
        """When sampling and training stop."""
        return self.recipe.stopping_rule(len(self.points), self.points[-1], self.level.sampling)

    @cached_property
    def parts(self) -> Parts:
        """The growing evaluations."""
        key = config_hash({"sampling": self.level.sampling.model_dump(mode="json"), "grows": True})
        return Parts(self.folder / "evaluations" / key, len(self.training_set))

    @property
    def epochs(self) -> list[float]:
        """Epochs at the evaluation points."""
        return [seen / len(self.training_set) for seen in self.points]

    def counts(self, warn: Callable[[str], None] | None = None) -> list[Counts]:
        """Return (memorized, all) images at each evaluation point; the threshold is applied to the stored neighbours.

        Args:
            warn: Gets a message for each damaged part, which is then removed.
        """
        return [counts_of(self.parts.read(seen, warn), self.memorized) for seen in self.points]

    def execute_until_decided(
        self,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Train and sample until the verdict is final, and measure the null.

        Args:
            device: Where to train and sample.
            progress: Reports images trained, with the epoch and the newest rate.
            warn: Gets a message for each damaged file that is made anew.

        Raises:
            DiffmemError: Training diverged, another process works in this folder, or a file cannot be written.
            KeyboardInterrupt: A stop was requested; the state is saved.
        """
        self.check_distinct()
        counts = world().from_main(lambda: self.counts(warn))

        def state() -> TrainingState:
            return self.stopping.state(self.epochs, counts)

        def has_snapshot(seen: int) -> bool:
            return world().from_main(lambda: self.is_whole_snapshot(seen, warn))

        def report(seen: float, more: str = "") -> None:
            best = max((one for one in counts if one[1]), key=lambda one: one[0] / one[1], default=None)
            rate = "" if best is None else f", R_mem {best[0] / best[1]:.0%} of {best[1]:,}"
            note = f"epoch {seen / len(self.training_set):,.0f}{rate}{more}"
            progress(seen, float(self.points[-1]), note)

        def sample(index: int, denoiser: Denoiser | None = None) -> None:
            """Sample at a point for as long as it is the one that gets images."""
            seen = self.points[index]
            while (next_ := state()).more and next_.point == index:
                denoiser = denoiser or self.denoiser(seen, device)
                hits, total = counts[index]
                seeds, store = range(total, total + next_.more), self.parts.store(seen)
                neighbours = self._evaluate_seeds(
                    denoiser, seen, seeds, self.level.sampling, store, total,
                    lambda made, more, note="": report(seen, f", {made:,.0f} of {more:,.0f} images more"),
                )  # fmt: skip
                counts[index] = hits + int(self.memorized(neighbours).sum()), total + next_.more
                report(seen)

        while (next_ := state()).more:
            reach = self.points[next_.point]
            if has_snapshot(reach):
                sample(next_.point)
                continue
            for seen, denoiser in self.training_snapshots(
                device=device, progress=lambda done, total, note="": report(done), warn=warn
            ):
                sample(index := self.points.index(seen), denoiser)
                if not (next_ := state()).more or next_.point <= index:
                    break
            if state().more and not has_snapshot(reach):
                raise DiffmemError(f"{self.folder}: the snapshot after {reach} images was not made.")
        self.measure_null(device=device, warn=warn)

    def outcome(self) -> Outcome | None:
        """Return what this training says; none while it is not final, or the null is missing or damaged."""
        counts = self.counts()
        state = self.stopping.state(self.epochs, counts)
        if state.more:
            return None
        try:
            read_null(self._null_path)
        except DiffmemError:
            return None
        return outcome_of(state, self.stopping, self.epochs, counts)

    def size_record(self, size: int, root: Path) -> RunRecord:
        """Summarize the training as it is now, finished or not.

        Args:
            size: The size that was asked for; the training set is larger where images are duplicated.
            root: Folder that the record's path is relative to.
        """
        stored = [self.parts.read(seen) for seen in self.points]
        counts = [counts_of(found, self.memorized) for found in stored]
        state, evaluations, null = self.stopping.state(self.epochs, counts), list[Evaluation](), None
        for seen, parts, verdict in zip(self.points, stored, self.stopping.states(counts), strict=True):
            if parts:
                neighbours = Neighbours(
                    np.concatenate([part.neighbours.distances for part in parts]),
                    np.concatenate([part.neighbours.indices for part in parts]),
                )
                found = summary(seen, neighbours, self.memorized, self.training_set, self._rate)
                evaluations.append(found.model_copy(update={"verdict": verdict}))
        with suppress(DiffmemError):  # not measured yet, or damaged: measured when the run is next worked on
            null = read_null(self._null_path)
        seconds = sum(part.seconds for found in stored for part in found)
        record = self.summarized(self.memorized, evaluations, null, size, seconds, root)
        decision = {"verdict": state.verdict, "stopped": state.stopped, "why": _why(state, evaluations)}
        return record.model_copy(update=decision)

    def _rate(self, count: int, total: int) -> Rate:
        """Return a rate whose interval holds however many images were sampled because of it."""
        confidence = self.recipe.confidence
        low, high = anytime_interval(count, total, confidence)
        return Rate(count, total, confidence, "anytime-valid", value=count / total, low=low, high=high)


def _why(state: TrainingState, points: list[Evaluation]) -> str:
    if not points:
        return "nothing measured yet"
    decided = [point for point in points if point.verdict == "at least"]
    best = decided[0] if decided else max(points, key=lambda point: point.memorized.value)
    rate = best.memorized
    found = (
        f"R_mem in [{rate.low:.3f}, {rate.high:.3f}] after {rate.total:,} images at epoch {best.epoch:,.0f}"
    )
    if state.stopped == "hopeless":
        return f"{found}, stopped at epoch {points[-1].epoch:,.0f}"
    return f"{found}, the highest of all points" if state.verdict == "not memorized" else found


def work_on_size(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Do the training that `content` describes, as far as it is not done.

    Args:
        content: recipe (an `AdaptiveRecipe` as JSON, without executor), level (its name), and the rest of `task_content`.
        progress: Reports images trained.
        warn: Gets a message for each damaged file that is made anew; it is noted beside the run too.

    Raises:
        DiffmemError: Training diverged, another process works in this folder, or a file cannot be written.
        KeyboardInterrupt: A stop was requested; the state is saved.
    """
    recipe = recipe_of(content["recipe"])
    level = recipe.level(content["level"])
    run = SizeRun(
        **opened_sets(content), model=level.model, training=level.training, recipe=recipe, level=level
    )

    def noted(text: str) -> None:
        note_repair(run.folder, text)
        warn(text)

    with run.at_work(progress) as report:
        run.execute_until_decided(device=content["device"], progress=report, warn=noted)


@dataclass(frozen=True)
class Parts:
    """The growing evaluations of one run with one sampler.

    Attributes:
        folder: Where they lie: a folder for each evaluation point.
        references: Number of training images.
    """

    folder: Path
    references: int

    def store(self, seen: int) -> EvaluationStore:
        """Return the parts of a point as a store of evaluations, whose number `seen` is here that of the first seed."""
        return EvaluationStore(self.folder / f"{seen:010d}", None, self.references)

    def read(self, seen: int, warn: Callable[[str], None] | None = None) -> list[StoredEvaluation]:
        """Return the parts that count, in order.

        Args:
            seen: Images seen at the evaluation point.
            warn: Gets a message for a damaged part, which is then removed so that it is made anew; if none, it is only not used.
        """
        store, found, start = self.store(seen), [], 0
        while store.path(start).is_file():
            try:
                part = store.read(start)
            except DiffmemError as error:
                if warn is not None:
                    store.path(start).unlink(missing_ok=True)
                    warn(f"{error} It is regenerated.")
                break
            found.append(part)
            start += len(part.neighbours)
        return found


def counts_of(parts: Sequence[StoredEvaluation], rule: RatioRule) -> Counts:
    """Return (memorized, all) images of the parts of a point; the rule is applied now."""
    return sum(int(rule(part.neighbours).sum()) for part in parts), sum(
        len(part.neighbours) for part in parts
    )
