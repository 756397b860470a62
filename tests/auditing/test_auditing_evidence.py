"""Tests of all criteria, and that a criterion from another file needs no change elsewhere."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from audit_tools import digits, image_set, noisy

from diffmem.auditing.criteria import PIXELS, Criterion
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.evidence import SAME_PICTURE_RMS, same_pictures, weigh
from diffmem.auditing.findings import criterion_records, sharp_rungs
from diffmem.auditing.heldout import BothSides
from diffmem.auditing.matches import matches_of
from diffmem.auditing.nulls import null_images
from diffmem.auditing.power import measure_power
from diffmem.auditing.request import AuditOptions
from diffmem.auditing.significance import FALSE_ALARM

TRAINING, HELDOUT, FRESH = digits(500, 500, 500)


@pytest.fixture(scope="module")
def detector():
    return CopyDetector(TRAINING, "pixel-l2/uint8")


@pytest.fixture(scope="module")
def null(detector):
    return null_images(detector, HELDOUT, 500)


def copies(count, size=2.0):
    return np.concatenate([FRESH[count:], noisy(TRAINING[:count], size)])


def test_fresh_images_are_no_evidence(detector, null):
    found = weigh(detector.criteria, detector.detect(FRESH), null)
    assert found.found() == []
    assert len(found.same) == 0
    assert set(found.tests) == {one.key for one in detector.criteria if one.role == "deciding"}


def test_copies_are_found_by_the_test_of_fresh_images(detector, null):
    found = weigh(detector.criteria, detector.detect(copies(20)), null)
    assert {"ratio", "repeats"} <= {
        key for key, tests in found.tests.items() if any(t.p_value <= t.level for t in tests)
    }
    first = next(test for test in found.tests["ratio"] if test.test == "fresh")
    assert (first.flagged, first.events, first.others) == (20, 20, 0)
    assert found.same.tolist() == list(range(480, 500))


def test_many_samples_of_one_image_are_one_event_and_a_large_group(detector, null):
    samples = np.concatenate([FRESH[30:], noisy(np.repeat(TRAINING[:1], 30, axis=0), 2)])
    found = weigh(detector.criteria, detector.detect(samples), null)
    fresh, groups = (next(t for t in found.tests["ratio"] if t.test == test) for test in ("fresh", "groups"))
    assert (fresh.flagged, fresh.events) == (30, 1)
    assert fresh.p_value > fresh.level
    assert groups.events == 30
    assert groups.p_value <= groups.level


def test_a_stricter_step_never_flags_more(detector, null):
    for tests in weigh(detector.criteria, detector.detect(copies(30, 8.0)), null).tests.values():
        flagged = [test.flagged for test in tests if test.test == "fresh"]
        assert flagged == sorted(flagged, reverse=True)
        assert all(test.events <= test.flagged for test in tests if test.test != "groups")


def test_samples_that_are_no_trials_count_for_nothing(detector, null):
    samples = detector.detect(copies(20))
    judged = replace(samples, times=(np.arange(500) < 480).astype(np.int64))
    found = weigh(detector.criteria, judged, null)
    assert found.found() == []
    assert len(found.same) == 0
    nothing = replace(samples, times=np.zeros(500, np.int64))
    assert weigh(detector.criteria, nothing, null).tests == {}


def test_natural_near_copies_on_all_sides_are_no_evidence():
    # Of 40 images each side holds a near-copy, and ten are twice in the training set.
    originals = digits(540)[0][500:540]
    training = np.concatenate([TRAINING, originals, noisy(originals[:10], 3, seed=2)])
    detector = CopyDetector(training, "space")
    null = null_images(detector, np.concatenate([HELDOUT, noisy(originals, 3, seed=3)]), 540)
    found = weigh(
        detector.criteria, detector.detect(np.concatenate([FRESH, noisy(originals, 3, seed=4)])), null
    )
    assert found.found() == []
    ratio = next(test for test in found.tests["repeats"] if test.test == "fresh")
    assert ratio.events + ratio.others >= 40


def test_training_images_without_near_copies_are_no_null_for_held_out_images_with_many():
    originals = TRAINING[:40]
    detector = CopyDetector(TRAINING, "space")
    null = null_images(detector, np.concatenate([HELDOUT, noisy(originals, 3)]), 500)
    found = weigh(
        detector.criteria, detector.detect(np.concatenate([FRESH, noisy(TRAINING[40:80], 3)])), null
    )
    assert {"ratio", "repeats"} <= set(found.disagree)
    assert found.found() == []


def test_training_images_with_many_near_copies_are_no_null_for_held_out_images_without():
    detector = CopyDetector(np.concatenate([TRAINING, noisy(TRAINING[:200], 3)]), "space")
    null = null_images(detector, HELDOUT, 500)
    assert "ratio" in weigh(detector.criteria, detector.detect(FRESH), null).disagree


def test_where_near_copies_were_removed_only_held_out_images_are_the_null(detector):
    null = null_images(detector, HELDOUT, 500, deduplicated=True)
    found = weigh(detector.criteria, detector.detect(copies(20)), null)
    fresh = next(test for test in found.tests["ratio"] if test.test == "fresh")
    assert fresh.share == pytest.approx(0.5)
    assert found.disagree == []
    assert found.found()


def test_among_both_sides_the_images_copied_on_each_are_counted(detector, null):
    samples = detector.detect(np.concatenate([FRESH[40:], noisy(TRAINING[:30], 2), noisy(HELDOUT[:10], 2)]))
    both = BothSides(detector, null)
    split = both.split(samples, both.heldout.detect(samples.batch.images))
    tests = weigh(detector.criteria, samples, null, split=split).tests["ratio"]
    found = next(test for test in tests if test.test == "split")
    assert (found.events, found.others, found.share) == (30, 10, pytest.approx(0.5))


def test_a_sample_as_near_as_a_null_image_is_explained(detector):
    null = null_images(detector, np.concatenate([HELDOUT, noisy(TRAINING[:1], 2)]), 500)
    farther = weigh(detector.criteria, detector.detect(copies(1, 3.0)), null)
    nearer = weigh(detector.criteria, detector.detect(copies(1, 0.3)), null)
    assert (len(farther.same), len(nearer.same)) == (0, 1)


def test_the_same_picture_is_near_in_grey_levels_and_by_the_criterion(detector):
    found = detector.detect(np.concatenate([noisy(TRAINING[:20], 2), noisy(TRAINING[:20], 12), FRESH]))
    ratio = next(one for one in detector.criteria if one.key == "ratio")
    same, rms = same_pictures(ratio, found)
    assert same[:20].all()
    assert not same[20:].any()
    assert rms[:20].max() <= SAME_PICTURE_RMS
    adaptive = next(one for one in detector.criteria if one.key == "adaptive")
    assert not same_pictures(adaptive, found)[0].any()


@dataclass(frozen=True, eq=False)
class Darkest(Criterion):
    """A criterion of another file: the distance to the nearest training image over the brightness of the sample."""

    key: ClassVar[str] = "darkest"
    weight: ClassVar[float] = 3.0
    strictness: ClassVar[tuple[float, ...]] = (0.5, 0.1)
    title: ClassVar[str] = "Distance over brightness"
    rule: ClassVar[str] = "darkest/v1"

    def _score(self, batch):
        light = np.sqrt(np.square(batch.images.astype(float)).reshape(len(batch), -1).sum(1)) + 1
        return batch.neighbours[self.space].distances[:, 0] / light


def test_a_criterion_of_another_file_works_everywhere_without_any_other_change():
    detector = CopyDetector(TRAINING, "pixel-l2/uint8")
    mine = Darkest(detector.references)
    detector.criteria = (*detector.criteria[:3], mine, *detector.criteria[3:])
    null = null_images(detector, HELDOUT, 500)
    samples = copies(25)
    found = detector.detect(samples)
    nearest = found.batch.neighbours[PIXELS].distances[:, 0]
    light = np.sqrt(np.square(samples.astype(float)).sum((1, 2, 3))) + 1
    np.testing.assert_array_equal(found.flags(mine, 1), nearest / light < 0.1)
    assert null.of_heldout(mine).shape == (500,)
    assert null.of_training(mine).shape == (500,)

    evidence = weigh(detector.criteria, found, null)
    assert [(test.test, test.strictness) for test in evidence.tests["darkest"]] == [
        ("fresh", 0.5),
        ("fresh", 0.1),
    ]
    levels = [test.level for tests in evidence.tests.values() for test in tests]
    assert 0.8 * FALSE_ALARM < sum(levels) < FALSE_ALARM
    assert any(test.p_value <= test.level for test in evidence.tests["darkest"])

    records = criterion_records(
        detector.criteria, [detector.protocol(one) for one in detector.criteria], found, null, evidence, 0.01
    )  # fmt: skip
    record = next(one for one in records if one.key == "darkest")
    assert (record.finding, record.protocol) == ("copies", "pixel-l2/uint8/darkest/v1")
    assert record.matches >= 25

    rungs = sharp_rungs(detector.criteria, null, 0.01, 500)
    assert (
        measure_power(detector, TRAINING, 0, count=20, keys=["exact"], rungs=rungs)["darkest"][
            0
        ].detected.count
        == 20
    )
    matches = matches_of(
        detector,
        image_set(TRAINING),
        image_set(samples),
        found,
        {"darkest": 1},
        AuditOptions(),
    )
    assert {match.sample for match in matches} >= set(range(475, 500))
    assert {tuple(match.criteria) for match in matches} == {("darkest",)}
