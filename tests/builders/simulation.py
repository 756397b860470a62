"""Audits from a table of neighbours: the roles of images are drawn anew each time, and nothing is searched again.

A *universe* is a set of different images with the nearest others of each. A *draw* gives some of them the role of training images and
some that of held-out images; whatever is left, and whatever else was searched in the universe (planted copies, blurred images), can be
audited as samples. All but the search is the code of the audit itself: the criteria, the null, the tests, the records, the verdict.

What the table does not hold is farther away than what it holds: the last known distance stands in for it, with the nearest known image
as its index. A table that holds all others leaves nothing to that; `test_auditing_simulation.py` compares such a draw with a search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.criteria import NEIGHBOURS, PIXELS, SURROUNDINGS, Batch, Criterion, choose_criteria
from diffmem.auditing.criteria.repeats import Repeats
from diffmem.auditing.detector import Detections
from diffmem.auditing.evidence import Evidence, Split, flagged_references, weigh
from diffmem.auditing.findings import criterion_records
from diffmem.auditing.nulls import SURROUNDINGS_MOST, Null
from diffmem.auditing.records import CopiesRecord, CriterionRecord, SpaceRecord, VerdictRecord
from diffmem.auditing.verdict import Circumstances, verdict_of
from diffmem.memorization import Neighbours, RepeatAwareRule

__all__ = ["Draw", "Outcome", "Table", "Universe", "table_of"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_BLOCK = 1024
_NO_COPIES = CopiesRecord(samples=0, distinct=0, most_copied=[], worst=[])


@dataclass(frozen=True, eq=False)
class Table:
    """The images of a universe that lie nearest to Q images.

    Attributes:
        distances: Grey levels over all values, ascending, float (Q, k).
        indices: Of the images of the universe, int (Q, k).
    """

    distances: NDArray[np.floating]
    indices: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.distances)

    def take(self, chosen: Ints | slice) -> Table:
        """Return some of the images."""
        return Table(self.distances[chosen], self.indices[chosen])

    def without(self, own: Ints, width: int) -> Table:
        """Return the table without one image of the universe for each, int64 (Q,), such as the image itself; `width` columns are left."""
        order = np.argsort(self.indices == own[:, None], axis=1, kind="stable")[:, :width]
        return Table(np.take_along_axis(self.distances, order, 1), np.take_along_axis(self.indices, order, 1))

    @staticmethod
    def of(parts: Sequence[Table]) -> Table:
        """Return several tables in one; the narrowest sets the width."""
        width = min(one.distances.shape[1] for one in parts)
        return Table(
            np.concatenate([one.distances[:, :width] for one in parts]),
            np.concatenate([one.indices[:, :width] for one in parts]),
        )


def table_of(images: NDArray[np.uint8], universe: NDArray[np.uint8], width: int) -> Table:
    """Compare each of some images with all of a universe, both uint8 (n, C, H, W), without any index: for small ones."""
    references = universe.reshape(len(universe), -1).astype(np.float64)
    squares = np.square(references).sum(1)
    parts = []
    for start in range(0, len(images), _BLOCK):
        rows = images[start : start + _BLOCK].reshape(-1, references.shape[1]).astype(np.float64)
        gaps = np.square(rows).sum(1)[:, None] + squares - 2 * rows @ references.T  # whole numbers, exact
        order = np.argsort(gaps, axis=1, kind="stable")[:, :width]
        parts.append(Table(np.sqrt(np.take_along_axis(gaps, order, 1)), order))
    return Table.of(parts)


@dataclass(frozen=True, eq=False)
class Universe:
    """Different images, each with the nearest others.

    Attributes:
        table: Of all images, int (N, k), without the image itself.
        shape: (C, H, W).
    """

    table: Table
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.table)

    @staticmethod
    def from_table(table: Table, shape: tuple[int, ...]) -> Universe:
        """Return the universe of a table in which every image may be its own nearest one."""
        width = table.distances.shape[1] - 1
        return Universe(table.without(np.arange(len(table)), width), shape)

    @staticmethod
    def of(images: NDArray[np.uint8], width: int) -> Universe:
        """Return the universe of images, uint8 (N, C, H, W), with so many others of each."""
        return Universe.from_table(table_of(images, images, width + 1), images.shape[1:])


@dataclass(frozen=True, eq=False)
class _TableRule(RepeatAwareRule):
    """The rule with distances between references looked up; those that are not in the table are far."""

    universe: Universe | None = None
    order: Ints | None = None

    def _apart(self, pictures: NDArray[np.uint8], ones: Ints, others: Ints) -> Floats:
        assert pictures is self.references  # of which the table has the distances
        assert self.universe is not None
        assert self.order is not None
        table, first, second = self.universe.table, self.order[ones], self.order[others]
        hit = table.indices[first] == second[:, None]
        apart = np.where(hit.any(1), table.distances[first, hit.argmax(1)], np.inf)
        return np.where(first == second, 0.0, apart)


@dataclass(frozen=True, eq=False)
class _TableRepeats(Repeats):
    universe: Universe | None = None
    order: Ints | None = None

    @cached_property
    def _decide(self) -> RepeatAwareRule:
        return _TableRule(self.references, self.threshold, self.count, self.universe, self.order)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one audit of a draw comes to.

    Attributes:
        verdict: That of the audit, without planted copies of its own and without a look at the samples as images.
        evidence: All tests.
        criteria: The records of those that decide.
    """

    verdict: VerdictRecord
    evidence: Evidence
    criteria: list[CriterionRecord]


class Draw:
    """Roles of the images of a universe.

    Args:
        universe: The images.
        training: Which are training images, int64 (T,), ascending.
        heldout: Which are held-out images, int64 (H,); empty for none.
        count: Neighbours that the criteria look at.
        drawn: Training images that are compared with the others; all if left out.
        deduplicated: Whether training images are no null.
        rng: Draws these; needed where `drawn` is given.
    """

    def __init__(
        self,
        universe: Universe,
        training: Ints,
        heldout: Ints,
        *,
        count: int = NEIGHBOURS,
        drawn: int | None = None,
        deduplicated: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.universe, self.training, self.heldout, self.count = universe, training, heldout, count
        self.order = np.concatenate([training, heldout])
        self._place = np.full(len(universe), -1)
        self._place[self.order] = np.arange(len(self.order))
        self.criteria = self._criteria(len(training))
        self.both = self._criteria(len(self.order))
        own = training
        if drawn is not None:
            assert rng is not None
            own = np.sort(rng.choice(training, drawn, replace=False))
        fresh = self.detect(universe.table.take(heldout)) if len(heldout) else None
        self.null = Null(
            heldout=fresh,
            overlap=np.zeros(len(heldout), bool),
            training={} if deduplicated else self._leave_one_out(own, rng),
            distinct=len(training),
            exchangeable=not deduplicated,
        )

    def _leave_one_out(self, own: Ints, rng: np.random.Generator | None) -> dict[str, Detections]:
        """Return training images against each other; of surroundings, those of a draw, as in an audit."""
        some = own
        if rng is not None and len(own) > SURROUNDINGS_MOST:
            some = np.sort(rng.choice(own, SURROUNDINGS_MOST, replace=False))
        return {
            space: self._of_space(self.detect(self.universe.table.take(which), own=which), space)
            for space, which in ((PIXELS, own), (SURROUNDINGS, some))
        }

    def _of_space(self, found: Detections, space: str) -> Detections:
        keys = [one.key for one in self.criteria if one.space == space]
        batch = replace(found.batch, neighbours={space: found.batch.neighbours[space]})
        return replace(found, batch=batch, scores={key: found.scores[key] for key in keys})

    @property
    def rest(self) -> Ints:
        """Images without a role, int64, ascending."""
        return np.setdiff1d(np.arange(len(self.universe)), self.order)

    def detect(self, table: Table, *, own: Ints | None = None, both: bool = False) -> Detections:
        """Return what the deciding criteria make of images beside the training images, or beside these and the held-out ones.

        Args:
            table: What lies near them in the universe.
            own: Where they are training images, which images of the universe, int64 (Q,).
            both: Whether held-out images are references, too.
        """
        batch = self._batch(table, len(self.order) if both else len(self.training))
        if own is not None:
            batch = replace(batch, own=self._place[own])
        scores = {one.key: one(batch) for one in (self.both if both else self.criteria)}
        return Detections(batch, scores, np.ones(len(batch), np.int64))

    def audit(self, samples: Table, target: float = 0.01) -> Outcome:
        """Audit samples, all of them different images and trials."""
        found = self.detect(samples)
        split = None
        if len(self.heldout):
            split = Split(
                self.both, self.detect(samples, both=True), len(self.training), len(self.heldout), self._near
            )
        near = (
            self._near_copies(flagged_references(self.criteria, found, self.null))
            if self.null.exchangeable
            else None
        )
        evidence = weigh(self.criteria, found, self.null, split=split, near=near)
        keys = [one.key for one in self.criteria]
        records = criterion_records(self.criteria, keys, found, self.null, evidence, target)
        around = Circumstances(same_pictures=len(evidence.same))
        return Outcome(
            verdict_of(records, _NO_COPIES, self._space(evidence), target, around), evidence, records
        )

    def _near_copies(self, which: Ints) -> Ints:
        """Return pairs of training images that are near-copies of each other, as `CopyDetector.near_copies` does."""
        if not len(which):
            return np.zeros((0, 2), np.int64)
        batch = self._batch(self.universe.table.take(self.training[which]), len(self.training))
        found = batch.neighbours[SURROUNDINGS]
        near = found.distances < np.median(found.distances, axis=1)[:, None] / 3
        return np.stack([np.repeat(which, near.sum(1)), found.indices[near]], axis=1)

    def _space(self, evidence: Evidence) -> SpaceRecord:
        compared = self.null.training.get(PIXELS)
        shape = self.universe.shape
        return SpaceRecord(
            protocol="pixel-l2/uint8",
            shape=(shape[0], shape[1], shape[2]),
            training_images=len(self.training),
            distinct_images=len(self.training),
            null_heldout=len(self.heldout),
            null_training=0 if compared is None else len(compared),
            deduplicated=not self.null.exchangeable,
            disagree=evidence.disagree,
            heldout_overlap=0,
            heldout_near=None,
            heldout_copied=0,
        )

    @cached_property
    def _near(self) -> Ints:
        """Pairs of a held-out and a training image that are near-copies of each other, as in `diffmem.auditing.heldout.BothSides`."""
        pairs = [np.zeros((0, 2), np.int64)]
        for one in self.criteria:
            if one.all_but_identical is None:
                continue
            fresh = self.null.heldout
            if fresh is not None:
                flags = fresh.flags(one)
                own = np.flatnonzero(flags) + len(self.training)
                pairs.append(np.stack([own, fresh.scores[one.key].copied[flags]], 1))
        return np.concatenate(pairs)

    def _criteria(self, references: int) -> tuple[Criterion, ...]:
        """Return the deciding criteria with so many references; their pixels are not looked at."""
        blank = np.broadcast_to(
            np.zeros((1, *self.universe.shape), np.uint8), (references, *self.universe.shape)
        )

        def no_gaps(chosen: Ints, own: Ints | None) -> Floats:
            return np.zeros(len(chosen))  # of a supporting criterion, which is left out

        found = choose_criteria(blank, no_gaps, count=self.count)
        return tuple(
            _TableRepeats(blank, one.threshold, one.count, self.universe, self.order)
            if isinstance(one, Repeats)
            else one
            for one in found
            if one.role == "deciding"
        )

    def _batch(self, table: Table, references: int) -> Batch:
        """Return images with the nearest of the first so many references."""
        place = self._place[table.indices]
        known = (place >= 0) & (place < references)
        width = min(self.count, references - 1) or 1
        order = np.argsort(~known, axis=1, kind="stable")[:, :width]
        here = np.take_along_axis(known, order, 1)
        assert here[:, 0].all(), "the table is too narrow: an image has no reference in it"
        distances = np.take_along_axis(table.distances, order, 1).astype(np.float64)
        indices = np.take_along_axis(place, order, 1)
        last = np.maximum.accumulate(np.where(here, distances, -1.0), axis=1)
        found = Neighbours(np.where(here, distances, last), np.where(here, indices, indices[:, :1]))
        return Batch(np.zeros((len(table), 1), np.uint8), {PIXELS: found, SURROUNDINGS: found})
