import math
import re

import numpy as np
import pytest
from audit_tools import digits, image_set, noisy

from diffmem.auditing.detector import Instrument
from diffmem.auditing.replication import FALSE_ALARM, null_of, replicate, samples_needed
from diffmem.memorization import Transforms

TRAINING, HELDOUT, FRESH = digits(600, 500, 500)


@pytest.fixture(scope="module")
def instrument():
    return Instrument(TRAINING, "pixel-l2/uint8")


def run(instrument, samples, heldout=HELDOUT, **settings):
    null = null_of(instrument, heldout, 0)
    return replicate(instrument, image_set(instrument.training), image_set(samples), null, **settings)


def by_key(found):
    return {one.key: one for one in found.criteria}


def test_copies_are_found_counted_and_traced(instrument):
    samples = np.concatenate([noisy(TRAINING[[5, 5, 5, 9]], 4), FRESH])
    found = run(instrument, np.concatenate([samples, noisy(TRAINING[20:40], 4)]))
    ratio = by_key(found)["ratio"]
    assert (ratio.finding, ratio.flagged.count, ratio.null.count, ratio.distinct) == ("copies", 24, 0, 22)
    assert found.copies.samples == 24
    assert found.copies.most_copied[0].training == 5
    assert found.copies.most_copied[0].times == 3
    assert [match.rms for match in found.matches] == sorted(match.rms for match in found.matches)
    assert {match.sample for match in found.matches} == {*range(4), *range(504, 524)}


def test_fresh_images_have_no_copies_and_a_bound(instrument):
    found = by_key(run(instrument, FRESH, target=0.01))
    assert found["ratio"].finding == "none"
    assert found["ratio"].bound == pytest.approx(3 / 500, rel=0.01)


def test_too_few_samples_cannot_exclude_the_target_and_the_number_needed_is_said(instrument):
    found = by_key(run(instrument, FRESH[:100], target=0.01))["ratio"]
    assert found.finding == "cannot tell"
    assert "299 are needed" in found.notes[0]
    assert samples_needed(0.01) == 299


def test_a_single_identical_image_is_not_passed_over_and_the_null_images_needed_are_said(instrument):
    found = by_key(run(instrument, np.concatenate([FRESH, TRAINING[:1]])))["identical"]
    assert found.finding == "cannot tell"
    assert "null images, none of them flagged" in found.notes[0]
    assert found.chance.p_value > 0.05


def test_few_flagged_samples_are_no_finding_while_chance_makes_as_many(instrument):
    found = by_key(run(instrument, np.concatenate([FRESH, noisy(TRAINING[:1], 3)]), target=0.02))["ratio"]
    assert (found.finding, found.flagged.count) == ("none", 1)
    assert found.bound == pytest.approx(4.74 / 501, rel=0.01)


def test_flagged_samples_between_chance_and_copies_cannot_be_told(instrument):
    samples = np.concatenate([FRESH, noisy(TRAINING[:6], 3)])
    found = by_key(run(instrument, samples, target=0.05))["ratio"]
    assert FALSE_ALARM / 4 < found.chance.p_value <= 0.05
    assert found.finding == "cannot tell"


def test_the_samples_needed_count_what_chance_flags(instrument):
    samples = np.concatenate([FRESH, noisy(TRAINING[:3], 3)])
    found = by_key(run(instrument, samples, target=0.01))["ratio"]
    assert found.finding == "cannot tell"
    needed = int(re.search(r"about ([\d,]+) are needed", found.notes[0])[1].replace(",", ""))
    assert 600 < needed < 2500


def test_a_criterion_that_flags_many_fresh_images_is_not_usable(instrument):
    found = by_key(run(instrument, FRESH))["adaptive"]
    assert found.null.value > 0.05
    assert found.finding == "not usable"


def test_a_criterion_that_is_not_usable_makes_no_matches(instrument):
    found = run(instrument, FRESH)
    assert by_key(found)["adaptive"].flagged.count > 10
    assert found.copies.samples == 0


def test_even_a_blunt_criterion_finds_copies_that_are_many(instrument):
    samples = np.concatenate([FRESH[:250], noisy(TRAINING[:250], 4)])
    assert by_key(run(instrument, samples))["adaptive"].finding == "copies"


def test_a_blunt_criterion_names_no_copies_where_a_sharp_one_finds_them(instrument):
    found = run(instrument, np.concatenate([FRESH[:250], noisy(TRAINING[:250], 4)]))
    assert by_key(found)["adaptive"].flagged.count > 280
    assert 240 <= found.copies.samples <= 250
    assert all("adaptive" not in match.criteria for match in found.matches)


def test_held_out_images_that_are_training_images_count_as_identical_and_leave_the_null(instrument):
    found = run(instrument, FRESH, np.concatenate([HELDOUT, TRAINING[:7]]))
    assert found.space.heldout_overlap == 7
    assert found.space.null_images == 500
    assert by_key(found)["identical"].null.count == 7


def test_without_held_out_images_training_images_stand_in(instrument):
    found = run(instrument, FRESH, None)
    assert found.space.null_source == "training, leave one out"
    assert found.space.null_images == len(instrument.kept)
    assert by_key(found)["ratio"].finding == "none"


def test_of_many_or_large_training_images_a_random_part_stands_in(instrument, monkeypatch):
    module = "diffmem.auditing.replication"
    monkeypatch.setattr(f"{module}._NULL_BYTES", 64 * 100)
    monkeypatch.setattr(f"{module}._LEAST_FROM_TRAINING", 50)
    one, again, other = (null_of(instrument, None, seed).sight.neighbours.indices for seed in (0, 0, 1))
    assert len(one) == 100
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_null_rates_of_held_out_and_of_training_images_agree(instrument):
    one, other = by_key(run(instrument, FRESH)), by_key(run(instrument, FRESH, None))
    for key in ("ratio", "repeats", "adaptive", "near", "inauthentic"):
        # Twice the standard error of a difference at n = 500 and 600, with room for six comparisons.
        gap = 3.5 * math.sqrt(max(one[key].null.value, 0.005) * (1 / 500 + 1 / 600))
        assert abs(one[key].null.value - other[key].null.value) <= gap, key


def test_a_mirrored_copy_is_told_with_its_change():
    instrument = Instrument(TRAINING, "pixel-l2/uint8", transforms=Transforms(True, 1))
    samples = np.concatenate([FRESH, TRAINING[:30, :, :, ::-1]])
    found = run(instrument, samples)
    assert by_key(found)["transforms"].finding == "copies"
    match = next(one for one in found.matches if one.sample == 500 + 3)
    assert (match.training, match.variant, match.rms) == (3, "mirrored", 0.0)


def test_a_private_report_names_nothing(instrument):
    found = run(instrument, TRAINING[:40], private=True)
    assert {match.sample_name for match in found.matches} == {None}
    assert {match.training_name for match in found.matches} == {None}
    assert {copied.training_name for copied in found.copies.most_copied} == {None}
    assert all(len(match.sample_hash) == 32 for match in found.matches)
    assert found.matches[0].sample_hash == found.matches[0].training_hash


def test_histograms_hold_every_image(instrument):
    found = run(instrument, FRESH)
    for one in found.distances:
        assert sum(one.samples) == 500
        assert sum(one.null) == 500
        assert len(one.edges) == len(one.samples) + 1


def test_fresh_images_are_called_copies_no_more_often_than_is_claimed():
    images = np.concatenate(digits(1797))
    alarms = 0
    for seed in range(30):
        order = np.random.default_rng(seed).permutation(1797)
        training, heldout, fresh = (images[order[a:b]] for a, b in ((0, 300), (300, 1000), (1000, 1700)))
        instrument = Instrument(training, "space")
        found = run(instrument, fresh, heldout)
        alarms += any(one.finding == "copies" for one in found.criteria if one.role == "deciding")
    # Of 30 runs at a rate of FALSE_ALARM, three or more would happen with a chance of 0.003.
    assert FALSE_ALARM == 0.01
    assert alarms <= 2
