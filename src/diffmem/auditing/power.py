"""Power: how many copies, planted among the user's own training images, each criterion finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffmem.auditing.detector import CopyDetector, Detections
from diffmem.auditing.positive_controls import (
    POSITIVE_CONTROLS,
    PositiveControl,
    control_named,
    make_controls,
    partners,
)
from diffmem.auditing.records import PowerRecord
from diffmem.errors import UserError
from diffmem.memorization.neighbours.contents import taken
from diffmem.memorization.rates import Rate
from diffmem.progress import NO_PROGRESS, Progress, parts_of

__all__ = ["COUNT", "DetectedControls", "detect_controls", "measure_power", "power_records"]

Pixels = NDArray[np.uint8]

COUNT = 200
"""Training images of which copies are planted, of each kind."""

_STREAM = 0x706F776572
_MOST_BYTES = 128 << 20


@dataclass(frozen=True, eq=False)
class DetectedControls:
    """Planted copies of one kind, and what the criteria make of them.

    Attributes:
        kind: Of copies.
        sources: Which training image each shows, int64 (n,); of blends, that with the larger share.
        partners: The other one of a blend in equal parts; else the same as `sources`.
        images: uint8 (n, C, H, W).
        found: What the criteria make of them.
    """

    kind: PositiveControl
    sources: NDArray[np.int64]
    partners: NDArray[np.int64]
    images: Pixels
    found: Detections


def measure_power(
    detector: CopyDetector,
    training: Pixels,
    seed: int,
    count: int = COUNT,
    keys: Sequence[str] | None = None,
    rungs: Mapping[str, int] | None = None,
    progress: Progress = NO_PROGRESS,
) -> dict[str, list[PowerRecord]]:
    """Plant copies of random training images, and count what each criterion finds.

    Args:
        training: The same images, uint8 (N, C, H, W), also memory-mapped.
        seed: Chooses the images and their changes; 0 or more.
        count: Distinct training images of which copies are planted, of each kind; all of a smaller set.
        keys: Kinds of copies; all but those that need near-copies in the training set if none are named.
        rungs: How strict each criterion is, by key: its step of strictness; the loosest where it is left out.

    Returns:
        For each criterion, by its key, one record for each kind, in the order of the kinds.

    Raises:
        UserError: A kind is not known, or the count is below 1.
    """
    if count < 1:
        raise UserError(f"At least 1 copy of each kind must be planted, not {count}.")
    kinds = (
        [kind for kind in POSITIVE_CONTROLS if not kind.near_copies]
        if keys is None
        else [control_named(key) for key in keys]
    )
    if not kinds:
        return {one.key: [] for one in detector.criteria}
    if len(detector.distinct) < 2:
        kinds = [kind for kind in kinds if not kind.key.startswith("blend")]  # of two different images
    rng = np.random.default_rng([seed, _STREAM])
    chosen = rng.choice(len(detector.distinct), min(count, len(detector.distinct)), replace=False)
    sources = detector.distinct[np.sort(chosen)]
    found = detect_controls(detector, training, sources, kinds, seed, progress)
    return power_records(detector, training, found, rungs=rungs)


def detect_controls(
    detector: CopyDetector,
    training: Pixels,
    sources: NDArray[np.int64],
    kinds: Sequence[PositiveControl],
    seed: int,
    progress: Progress = NO_PROGRESS,
) -> list[DetectedControls]:
    """Plant copies of chosen training images and compare all of them with the training set, at once where memory allows.

    Args:
        training: uint8 (N, C, H, W).
        sources: Which of them are copied, int64 (n,), n at least 1.
        kinds: Of copies, at least one.

    Returns:
        In the order of the kinds.
    """
    originals = taken(training, sources)
    size = max(1, originals.nbytes)
    at_once = max(1, _MOST_BYTES // size)
    found: list[DetectedControls] = []
    blocks = [kinds[start : start + at_once] for start in range(0, len(kinds), at_once)]
    for here, part_done in parts_of(progress, blocks, [len(block) for block in blocks]):
        images = [make_controls(originals, kind.key, seed, training) for kind in here]
        seen = detector.detect(np.concatenate(images), part_done)
        for at, kind in enumerate(here):
            other = partners(originals, seed, training) if kind.key == "blend50" else sources
            part = np.arange(at * len(sources), (at + 1) * len(sources))
            found.append(DetectedControls(kind, sources, other, images[at], seen.take(part)))
    return found


def power_records(
    detector: CopyDetector,
    training: Pixels,
    found: Sequence[DetectedControls],
    names: NDArray[np.int64] | None = None,
    rungs: Mapping[str, int] | None = None,
) -> dict[str, list[PowerRecord]]:
    """Count the planted copies that each criterion finds.

    Args:
        detector: That looked at them.
        training: uint8 (N, C, H, W).
        found: What it made of them.
        names: Which picture each training image shows, int64 (N,), where some show the same one; by default, images of the same
            pixels do.
        rungs: How strict each criterion is, as for `measure_power`.

    Returns:
        For each criterion, by its key, one record for each kind.
    """
    records: dict[str, list[PowerRecord]] = {}
    strict = {} if rungs is None else rungs
    for criterion in detector.criteria:
        records[criterion.key] = []
        for one in found:
            flags = one.found.flags(criterion, strict.get(criterion.key, 0))
            copied = detector.distinct[one.found.scores[criterion.key].copied]
            right = _same(training, copied, one.sources, names) | _same(training, copied, one.partners, names)
            records[criterion.key].append(
                PowerRecord(
                    key=one.kind.key,
                    kind=one.kind.text,
                    detected=Rate(int(flags.sum()), len(flags)),
                    traced=Rate(int(right.sum()), len(right)),
                )
            )
    return records


def _same(
    training: Pixels, ones: NDArray[np.int64], others: NDArray[np.int64], names: NDArray[np.int64] | None
) -> NDArray[np.bool_]:
    """Return which pairs of training images show the same picture."""
    if names is not None:
        return np.asarray(names[ones] == names[others])
    same = np.asarray(ones == others)
    for at in np.flatnonzero(~same):
        same[at] = np.array_equal(training[ones[at]], training[others[at]])
    return same
