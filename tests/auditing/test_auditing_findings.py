"""Records of criteria from scores that are made up: what follows from counts alone."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from diffmem.auditing.criteria import PIXELS, Batch, Criterion
from diffmem.auditing.detector import Detections
from diffmem.auditing.evidence import weigh
from diffmem.auditing.findings import criterion_records, samples_needed, sharp_rungs
from diffmem.auditing.nulls import Null
from diffmem.auditing.significance import upper_bound
from diffmem.memorization import Neighbours

REFERENCES = np.zeros((3000, 1, 2, 2), np.uint8)


@dataclass(frozen=True, eq=False)
class Given(Criterion):
    """The score is the distance to the nearest reference."""

    key: ClassVar[str] = "given"
    strictness: ClassVar[tuple[float, ...]] = (1.0, 0.5, 0.1)
    title: ClassVar[str] = "As given"
    rule: ClassVar[str] = "given/v1"


CRITERION = Given(REFERENCES)


def detections(count, *scores, first=0):
    """So many images with some scores, each beside a reference of its own; the others score 9."""
    given = np.full(count, 9.0)
    given[: len(scores)] = scores
    copied = np.arange(first, first + count)
    batch = Batch(np.zeros((count, 1, 2, 2), np.uint8), {PIXELS: Neighbours(given[:, None], copied[:, None])})
    return Detections(batch, {"given": CRITERION(batch)}, np.ones(count, np.int64))


def null_of(count, *scores):
    return Null(detections(count, *scores, first=1500), np.zeros(count, bool), {}, 3000, False)


def record(samples, null, target=0.01, judged=None):
    if judged is not None:
        samples = replace(samples, times=judged.astype(np.int64))
    evidence = weigh([CRITERION], samples, null)
    (found,) = criterion_records([CRITERION], ["id"], samples, null, evidence, target)
    return found


@pytest.mark.parametrize(("target", "needed"), [(0.05, 59), (0.01, 299), (0.005, 598), (0.001, 2995)])
def test_the_samples_that_exclude_a_share_are_about_three_over_it(target, needed):
    assert samples_needed(target) == needed
    assert upper_bound(0, needed) <= target < upper_bound(0, needed - 1)


def test_no_flagged_sample_is_none_with_a_bound():
    found = record(detections(1000), null_of(1000))
    assert (found.finding, found.matches, found.strictness) == ("none", 0, 1.0)
    assert found.bound == upper_bound(0, 1000)


def test_too_few_samples_cannot_exclude_the_target_and_the_number_needed_is_said():
    found = record(detections(100), null_of(1000))
    assert found.finding == "cannot tell"
    assert "299 are needed" in found.notes[0]


def test_many_flagged_samples_beside_no_null_image_are_copies():
    found = record(detections(1000, *[0.05] * 30), null_of(1000))
    assert (found.finding, found.matches, found.distinct) == ("copies", 30, 30)
    assert found.strongest.p_value <= found.strongest.level


def test_rare_copies_show_at_a_strictness_that_no_null_image_reaches():
    chance = [0.8] * 40
    found = record(detections(1000, *[0.05] * 14, *chance), null_of(1000, *chance))
    assert found.finding == "copies"
    assert found.strongest.strictness < 1
    assert (found.strongest.events, found.strongest.others) == (14, 0)


def test_flagged_samples_that_chance_explains_are_none():
    found = record(detections(3000, 0.8, 0.8), null_of(1500, 0.8), target=0.01)
    assert (found.finding, found.flagged.count) == ("none", 2)


def test_between_chance_and_copies_it_cannot_be_told():
    counts = {
        count: record(detections(1000, *[0.05] * count), null_of(1000), 0.05).finding for count in range(30)
    }
    assert counts[0] == counts[1] == "none"
    assert counts[29] == "copies"
    doubtful = [count for count, finding in counts.items() if finding == "cannot tell"]
    copies = [count for count, finding in counts.items() if finding == "copies"]
    assert doubtful
    assert max(doubtful) < min(copies)


def test_a_criterion_that_flags_null_images_at_every_strictness_is_not_usable():
    many = [0.05] * 100
    found = record(detections(1000, *many), null_of(1000, *many))
    assert (found.finding, found.strictness) == ("not usable", None)
    assert "cannot exclude a rate of copies" in found.notes[0]


def test_the_bound_is_that_of_the_loosest_strictness_at_which_chance_flags_few():
    many = [0.8] * 100
    found = record(detections(1000, *many), null_of(1000, *many))
    assert (found.finding, found.strictness) == ("none", 0.5)
    assert found.flagged.count == 100
    assert found.bound == upper_bound(0, 1000)


def test_the_strictness_leaves_samples_room_for_what_chance_flags():
    few = [0.8] * 2  # 0.2% of the null images
    null = null_of(1000, *few)
    assert sharp_rungs([CRITERION], null, 0.01, 10_000) == {"given": 0}
    assert sharp_rungs([CRITERION], null, 0.01, 320) == {"given": 1}
    assert sharp_rungs([CRITERION], null, 0.0001, 100_000) == {"given": 1}


def test_without_a_null_flagged_samples_cannot_be_told_and_none_are_none():
    nothing = Null(None, np.zeros(0, bool), {}, 3000, False)
    found = record(detections(1000, 0.05), nothing)
    assert (found.finding, found.null) == ("cannot tell", None)
    assert "There are no null images" in found.notes[0]
    assert record(detections(1000), nothing).finding == "none"


def test_only_samples_that_can_be_judged_count():
    judged = np.arange(1000) >= 30
    found = record(detections(1000, *[0.05] * 30), null_of(1000), judged=judged)
    assert (found.flagged.count, found.flagged.total, found.matches) == (0, 970, 0)
    assert found.bound == upper_bound(0, 970)


@pytest.mark.parametrize("flagged", [0, 3, 20])
def test_rates_are_those_of_the_loosest_strictness(flagged):
    found = record(detections(1000, *[0.9] * flagged), null_of(500, 0.9))
    assert (found.flagged.count, found.flagged.total, found.null.count, found.null.total) == (
        flagged,
        1000,
        1,
        500,
    )
    assert found.threshold == 1.0
