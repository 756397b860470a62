"""Evaluations that grow: the images of one evaluation point in parts, each stored and checksummed like an evaluation of its own.

A part is named by the seed of its first image. The parts that count are those that follow one another from seed 0; whatever
lies behind a gap (a damaged part that was removed) is made again before it counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffmem.errors import DiffmemError
from diffmem.memorization import RatioRule
from diffmem.runs.evaluations import EvaluationStore, StoredEvaluation
from diffmem.studies.search.decisions import Counts

__all__ = ["Parts", "counts_of"]


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
