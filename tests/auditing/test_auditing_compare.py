import re

import numpy as np
import pytest
from audit_tools import digits, image_set, noisy, times_of

from diffmem.auditing.compare import compare, distance_records, judge
from diffmem.auditing.detector import CopyDetector
from diffmem.auditing.nulls import null_images
from diffmem.auditing.request import AuditOptions
from diffmem.memorization import Transforms

TRAINING, HELDOUT, FRESH = digits(600, 500, 500)


@pytest.fixture(scope="module")
def detector():
    return CopyDetector(TRAINING, "pixel-l2/uint8")


@pytest.fixture(scope="module")
def nulls(detector):
    """The null with and without held-out images."""
    return {given: null_images(detector, HELDOUT if given else None, 500) for given in (True, False)}


def run(detector, samples, null, times=None, **settings):
    return judge(
        detector,
        image_set(detector.training),
        image_set(samples),
        null,
        AuditOptions(**settings),
        times=times_of(samples) if times is None else times,
    )


def by_key(found):
    return {one.key: one for one in found.criteria}


def test_copies_are_found_counted_and_traced(detector, nulls):
    samples = np.concatenate([noisy(TRAINING[[5, 5, 5, 9]], 4), FRESH])
    found = run(detector, np.concatenate([samples, noisy(TRAINING[20:40], 4)]), nulls[True])
    ratio = by_key(found)["ratio"]
    assert (ratio.finding, ratio.flagged.count, ratio.null.count, ratio.distinct) == ("copies", 24, 0, 22)
    assert found.copies.samples == 24
    assert found.copies.most_copied[0].training == 5
    assert found.copies.most_copied[0].times == 3
    assert [match.rms for match in found.matches] == sorted(match.rms for match in found.matches)
    assert {match.sample for match in found.matches} == {*range(4), *range(504, 524)}


def test_fresh_images_have_no_copies_and_a_bound(detector, nulls):
    found = run(detector, FRESH, nulls[True])
    assert by_key(found)["ratio"].finding == "none"
    assert by_key(found)["ratio"].bound == pytest.approx(3 / 500, rel=0.01)
    assert not len(found.evidence.same)
    assert not found.around.problems
    assert found.around.heldout_needed is None


def test_one_sample_that_is_all_but_identical_is_kept_open_with_the_held_out_images_that_would_decide(
    detector, nulls
):
    found = run(detector, np.concatenate([FRESH, noisy(TRAINING[:1], 2)]), nulls[True])
    assert found.evidence.same.tolist() == [500]
    assert found.around.heldout_needed > len(HELDOUT)
    two = run(detector, np.concatenate([FRESH, noisy(TRAINING[:2], 2)]), nulls[True])
    assert two.around.heldout_needed < found.around.heldout_needed


def test_the_samples_needed_count_what_chance_flags(detector, nulls):
    found = run(detector, np.concatenate([FRESH, noisy(TRAINING[:3], 8)]), nulls[True], target=0.01)
    record = by_key(found)["ratio"]
    assert record.finding == "cannot tell"
    needed = int(re.search(r"about ([\d,]+) are needed", record.notes[0])[1].replace(",", ""))
    assert 299 <= needed < 2500


def test_a_criterion_that_flags_many_fresh_images_is_used_where_it_is_strict_enough(detector, nulls):
    found = run(detector, FRESH, nulls[True])
    adaptive = by_key(found)["adaptive"]
    assert adaptive.null.value > 0.03
    assert adaptive.flagged.count > 10
    assert adaptive.strictness < adaptive.threshold
    assert adaptive.matches == found.copies.samples == 0


def test_even_a_blunt_criterion_finds_copies_that_are_many(detector, nulls):
    samples = np.concatenate([FRESH[:250], noisy(TRAINING[:250], 4)])
    assert by_key(run(detector, samples, nulls[True]))["adaptive"].finding == "copies"


def test_matches_are_named_only_where_few_images_are_flagged_by_chance(detector, nulls):
    found = run(detector, np.concatenate([FRESH[:250], noisy(TRAINING[:250], 4)]), nulls[True])
    assert by_key(found)["adaptive"].flagged.count > 250
    assert 240 <= found.copies.samples <= 252


def test_repeats_of_a_sample_are_no_trials_but_are_counted_among_the_copies(detector, nulls):
    samples = np.concatenate([FRESH, np.repeat(TRAINING[:20], 3, axis=0)])
    found = run(detector, samples, nulls[True])
    assert by_key(found)["identical"].flagged.total == 520
    assert by_key(found)["identical"].flagged.count == 20
    assert {match.times for match in found.matches} == {3}
    assert found.copies.samples == 60
    assert found.copies.most_copied[0].times == 3


def test_samples_that_are_no_trials_are_no_matches(detector, nulls):
    samples = np.concatenate([FRESH, TRAINING[:20]])
    times = times_of(samples)
    times[500:] = 0
    found = run(detector, samples, nulls[True], times=times)
    assert found.copies.samples == 0
    assert by_key(found)["identical"].flagged.total == 500
    nothing = run(detector, samples, nulls[True], times=np.zeros(520, np.int64))
    assert nothing.criteria == []
    assert nothing.copies.samples == 0


def test_held_out_images_that_are_training_images_leave_the_null_and_it_is_said(detector):
    null = null_images(detector, np.concatenate([HELDOUT, TRAINING[:7]]), 500)
    found = run(detector, FRESH, null)
    assert found.space.heldout_overlap == 7
    assert found.space.null_heldout == 500
    assert by_key(found)["identical"].null.count == 0
    assert any(
        "7 of 507 held-out images are identical to training images" in line for line in found.around.said
    )
    assert not found.around.problems


def test_held_out_images_of_which_all_are_training_images_are_a_problem(detector):
    found = run(detector, FRESH, null_images(detector, TRAINING[:50], 500))
    assert "All 50 held-out images are identical to training images" in found.around.problems[0]
    assert "Give two different sets" in found.around.problems[0]


def test_without_held_out_images_training_images_are_the_null(detector, nulls):
    found = run(detector, FRESH, nulls[False])
    assert (found.space.null_heldout, found.space.null_training) == (0, 600)
    assert found.space.heldout_near is None
    assert by_key(found)["ratio"].finding == "none"
    assert {test.test for test in by_key(found)["ratio"].tests} == {"fresh", "groups"}


def test_both_nulls_are_pooled_where_they_agree(detector, nulls):
    record = by_key(run(detector, FRESH, nulls[True]))["adaptive"]
    assert record.null.total == 1100
    assert record.null.count == record.null_heldout.count + record.null_training.count
    gap = abs(record.null_heldout.value - record.null_training.value)
    assert gap < 3.5 * np.sqrt(record.null.value * (1 / 500 + 1 / 600))


def test_samples_are_looked_for_among_both_sides(detector, nulls):
    found = run(detector, np.concatenate([FRESH, noisy(TRAINING[:20], 2)]), nulls[True])
    split = [test for test in by_key(found)["ratio"].tests if test.test == "split"]
    assert {test.events for test in split} == {20}
    assert {test.others for test in split} == {0}
    assert split[0].share == pytest.approx(600 / 1100)


def test_a_mirrored_copy_is_told_with_its_change():
    detector = CopyDetector(TRAINING, "pixel-l2/uint8", transforms=Transforms(True, 1))
    samples = np.concatenate([FRESH, TRAINING[:30, :, :, ::-1]])
    found = run(detector, samples, null_images(detector, HELDOUT, 530))
    assert by_key(found)["transforms"].finding == "copies"
    match = next(one for one in found.matches if one.sample == 500 + 3)
    assert (match.training, match.variant, match.rms) == (3, "mirrored", 0.0)


def test_a_private_report_names_nothing(detector, nulls):
    found = run(detector, TRAINING[:40], nulls[True], private=True)
    assert {match.sample_name for match in found.matches} == {None}
    assert {match.training_name for match in found.matches} == {None}
    assert {copied.training_name for copied in found.copies.most_copied} == {None}
    assert all(len(match.sample_hash) == 32 for match in found.matches)
    assert found.matches[0].sample_hash == found.matches[0].training_hash


def test_generated_samples_are_numbered_by_their_seeds(detector, nulls):
    found = run(detector, TRAINING[:4], nulls[True], first_seed=400)
    assert {match.sample for match in found.matches} == {400, 401, 402, 403}


def test_histograms_hold_every_image(detector, nulls):
    for given, count in ((True, 1100), (False, 600)):
        records = distance_records(run(detector, FRESH, nulls[given]))
        assert [one.quantity for one in records] == ["ratio", "rms"]
        for one in records:
            assert sum(one.samples) == 500
            assert sum(one.null) == count
            assert len(one.edges) == len(one.samples) + 1


def test_the_whole_comparison_has_the_power_of_every_criterion(detector):
    found = compare(
        detector,
        image_set(TRAINING),
        image_set(FRESH),
        image_set(HELDOUT),
        AuditOptions(),
        times=times_of(FRESH),
    )
    for one in found.criteria:
        exact = next(power for power in one.power if power.key == "exact")
        assert exact.detected.count == exact.detected.total == 200, one.key
    assert found.space.null_training == 600


def test_a_deduplicated_training_set_is_no_null(detector):
    found = compare(
        detector, image_set(TRAINING), image_set(FRESH), image_set(HELDOUT), AuditOptions(deduplicated=True), times=times_of(FRESH)
    )  # fmt: skip
    assert found.space.deduplicated
    assert found.space.null_training == 0
    assert by_key(found)["ratio"].null_training is None
    assert by_key(found)["ratio"].null.total == 500


def test_a_supporting_criterion_that_finds_more_than_chance_makes_no_match_and_no_verdict(detector, nulls):
    plain = np.clip(TRAINING[:120] * 0.5 + TRAINING.mean(0) * 0.5, 0, 255).astype(np.uint8)
    found = run(detector, plain, nulls[True])
    kinds = {one.key: (one.role, one.finding) for one in found.criteria}
    assert ("supporting", "copies") in kinds.values()
    assert not any(kinds[key][0] == "supporting" for match in found.matches for key in match.criteria)
