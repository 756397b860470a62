"""One training of a search: trained and sampled until its verdict is known, in the folder of its run.

`work_on_size` is what a worker process calls, with paths and settings alone. Whatever it is killed in, the next call goes on to
the same verdict: every decision is a function of the images that are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffmem.data import open_images
from diffmem.distributed import world
from diffmem.errors import DiffmemError
from diffmem.memorization import RatioRule
from diffmem.memorization.records import RateRecord
from diffmem.models.denoiser import Denoiser
from diffmem.progress import NO_PROGRESS, Progress
from diffmem.sampling import SamplerConfig
from diffmem.studies.evaluations import judged
from diffmem.studies.null import read_null
from diffmem.studies.recipe import StudyRecipe, config_hash
from diffmem.studies.run import Run
from diffmem.studies.search.choice import Outcome, outcome_of
from diffmem.studies.search.confidence import anytime_interval
from diffmem.studies.search.decisions import (
    Counts,
    FutilityRule,
    Stand,
    StoppingRule,
    stand,
)
from diffmem.studies.search.parts import Parts, counts_of
from diffmem.studies.search.records import PointRecord, SizeRecord
from diffmem.studies.store.incidents import incidents, note_incident
from diffmem.studies.store.lock import RunLock
from diffmem.studies.store.status import StatusFile
from diffmem.studies.trained import agreed
from diffmem.training import Trainer
from diffmem.training.loop import snapshot_path

__all__ = ["SizeRun", "Terms", "work_on_size"]


@dataclass(frozen=True)
class Terms:
    """What a training is asked.

    Attributes:
        sampling: How images are generated.
        threshold: Of d1 / d2, below which they are memorized.
        rule: When sampling and training stop.
        futility: When the training is given up; none for never.
    """

    sampling: SamplerConfig
    threshold: float
    rule: StoppingRule
    futility: FutilityRule | None

    @property
    def memorized(self) -> RatioRule:
        """The rule by which an image is memorized."""
        return RatioRule(self.threshold)


@dataclass(frozen=True)
class SizeRun(Run):
    """A run whose evaluations grow until its size is decided; the attributes are those of `TrainedRun`."""

    def parts(self, sampling: SamplerConfig) -> Parts:
        """The growing evaluations with this sampler."""
        key = config_hash({"sampling": sampling.model_dump(mode="json"), "grows": True})
        return Parts(self.folder / "evaluations" / key, len(self.training_set))

    @property
    def epochs(self) -> list[float]:
        """Epochs at the evaluation points."""
        return [seen / len(self.training_set) for seen in self.points]

    def counts(self, terms: Terms, warn: Callable[[str], None] | None = None) -> list[Counts]:
        """Return (memorized, all) images at each evaluation point; the threshold is applied to the stored neighbours.

        Args:
            terms: How they were generated, and what is memorized.
            warn: Told of damaged parts, which are then removed.
        """
        parts = self.parts(terms.sampling)
        return [counts_of(parts.read(seen, warn), terms.memorized) for seen in self.points]

    def stand(self, terms: Terms, counts: Sequence[Counts]) -> Stand:
        """Return how this training stands with these counts."""
        return stand(terms.rule, self.epochs, counts, terms.futility)

    def execute_until_decided(
        self,
        terms: Terms,
        *,
        device: torch.device | str = "cpu",
        progress: Progress = NO_PROGRESS,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Train and sample until the verdict is final, and measure the null.

        Args:
            terms: What is asked.
            device: Where to train and sample.
            progress: Told images trained, with the epoch and the newest rate.
            warn: Told of damaged files that are made anew.

        Raises:
            DiffmemError: Training diverged, another process works in this folder, or a file cannot be written.
            KeyboardInterrupt: A stop was requested; the state is saved.
        """
        self.check_distinct()
        counts, parts = self._shared_counts(terms, warn), self.parts(terms.sampling)

        def now() -> Stand:
            return self.stand(terms, counts)

        def has_snapshot(seen: int) -> bool:
            return agreed(lambda: self.is_whole_snapshot(seen, warn))

        def tell(seen: float) -> None:
            best = max((one for one in counts if one[1]), key=lambda one: one[0] / one[1], default=None)
            rate = "" if best is None else f", R_mem {best[0] / best[1]:.0%} of {best[1]:,}"
            note = f"N={len(self.training_set):,}, epoch {seen / len(self.training_set):,.0f}{rate}"
            progress(seen, float(self.points[-1]), note)

        def sample(index: int, denoiser: Denoiser | None = None) -> None:
            """Sample at a point for as long as it is this point's turn."""
            seen = self.points[index]
            while (turn := now()).more and turn.point == index:
                denoiser = denoiser or self.denoiser(seen, device)
                hits, total = counts[index]
                seeds, store = range(total, total + turn.more), parts.store(seen)
                neighbours = self._evaluate_seeds(denoiser, seen, seeds, terms.sampling, store, total)
                counts[index] = hits + int(terms.memorized(neighbours).sum()), total + turn.more
                tell(seen)

        def at_snapshot(trainer: Trainer) -> bool:
            sample(self.points.index(trainer.seen), trainer.ema)
            return not now().more

        while (turn := now()).more:
            reach = self.points[turn.point]
            if has_snapshot(reach):
                sample(turn.point)
                continue
            self.fit(
                device=device,
                on_snapshot=at_snapshot,
                progress=lambda done, total, note="": tell(done),
                warn=warn,
            )
            if now().more and not has_snapshot(reach):
                raise DiffmemError(f"{self.folder}: the snapshot after {reach} images was not made.")
        self.measure_null(device=device, warn=warn)

    def _shared_counts(self, terms: Terms, warn: Callable[[str], None]) -> list[Counts]:
        """Return the counts that the first process reads, in every process."""
        here = world()
        counts = here.share(self.counts(terms, warn) if here.is_first else None)
        if counts is None:  # what the first process shares is never none
            raise DiffmemError(f"The counts of {self.folder} were not shared.")
        return list(counts)

    def outcome(self, terms: Terms) -> Outcome | None:
        """Return what this training says; none while it is not final, or the null is missing or damaged."""
        counts = self.counts(terms)
        now = self.stand(terms, counts)
        if now.more:
            return None
        try:
            read_null(self._null_path)
        except DiffmemError:
            return None
        return outcome_of(now, terms.rule, self.epochs, counts)

    def size_record(
        self,
        level: str,
        size: int,
        terms: Terms,
        root: Path,
        confidence: float = 0.95,
    ) -> SizeRecord:
        """Summarize the training as it is now, finished or not.

        Args:
            level: The level that it belongs to.
            size: The size that was asked for; the training set is larger where images are duplicated.
            terms: What it is asked.
            root: Folder that the record's path is relative to.
            confidence: Of the intervals at the points.
        """
        parts, whole = self.parts(terms.sampling), len(self.training_set)
        stored = [parts.read(seen) for seen in self.points]
        counts = [counts_of(found, terms.memorized) for found in stored]
        now, states, points = self.stand(terms, counts), terms.rule.states(counts), []
        for seen, (hits, total), state in zip(self.points, counts, states, strict=True):
            if total:
                low, high = anytime_interval(hits, total, confidence)
                rate = RateRecord(
                    count=hits, total=total, value=hits / total, low=low, high=high, method="anytime-valid"
                )
                points.append(
                    PointRecord(epoch=seen / whole, images_seen=seen, memorized=rate, verdict=state)
                )
        trained = max((seen for seen in self.points if snapshot_path(self.folder, seen).exists()), default=0)
        return SizeRecord(
            level=level,
            size=size,
            seed=self.seed,
            run_id=self.run_id,
            folder=str(self.folder.relative_to(root)),
            verdict=now.verdict,
            why=_why(now, points),
            epochs=self.epochs[-1],
            epochs_trained=trained / whole,
            stopped=now.stopped,
            points=points,
            null=self._null_record(terms.memorized),
            images_trained=trained,
            images_sampled=sum(total for _, total in counts),
            training_seconds=self.training_seconds(),
            sampling_seconds=sum(part.seconds for found in stored for part in found),
            incidents=incidents(self.folder),
        )

    def _null_record(self, rule: RatioRule) -> RateRecord | None:
        try:
            null = read_null(self._null_path)
        except DiffmemError:
            return None  # not measured yet, or damaged: measured again when the run is next worked on
        return None if null is None else judged(null, rule)


def _why(now: Stand, points: list[PointRecord]) -> str:
    if not points:
        return "nothing measured yet"
    decided = [point for point in points if point.verdict == "at least"]
    best = decided[0] if decided else max(points, key=lambda point: point.memorized.value)
    rate = best.memorized
    words = (
        f"R_mem in [{rate.low:.3f}, {rate.high:.3f}] after {rate.total:,} images at epoch {best.epoch:,.0f}"
    )
    if now.stopped == "hopeless":
        words += f", stopped at epoch {points[-1].epoch:,.0f}"
    elif not decided and now.verdict == "not memorized":
        words += ", the highest of all points"
    return words


def work_on_size(content: dict[str, Any], progress: Progress, warn: Callable[[str], None]) -> None:
    """Do the training that `content` describes, as far as it is not done.

    Args:
        content: recipe (a `StudyRecipe` as JSON), training_set and heldout (paths; heldout may be none), seed, store, device,
            rule and futility (fields of `StoppingRule` and `FutilityRule`; futility may be none).
        progress: Told images trained.
        warn: Told of damaged files that are made anew; they are noted beside the run too.

    Raises:
        DiffmemError: Training diverged, another process works in this folder, or a file cannot be written.
        KeyboardInterrupt: A stop was requested; the state is saved.
    """
    recipe = StudyRecipe.model_validate(content["recipe"])
    run = SizeRun(
        training_set=open_images(Path(content["training_set"])),
        heldout=None if content["heldout"] is None else open_images(Path(content["heldout"])),
        model=recipe.model,
        training=recipe.training,
        seed=int(content["seed"]),
        store=Path(content["store"]),
    )
    futility = None if content["futility"] is None else FutilityRule(**content["futility"])
    terms = Terms(recipe.sampling, recipe.measure.threshold, StoppingRule(**content["rule"]), futility)

    def noted(text: str) -> None:
        note_incident(run.folder, text)
        warn(text)

    with RunLock(run.folder), StatusFile(run.folder) as status:

        def told(done: float, total: float, note: str = "") -> None:
            status.tell(
                done, total, "training" if done < total else "sampling"
            )  # the table beside it has the rest
            progress(done, total, note)

        run.execute_until_decided(terms, device=content["device"], progress=told, warn=noted)
