import itertools
import math

import numpy as np
import pytest
from audit_tools import digits
from parameters import these
from scipy.stats import binom, poisson

from diffmem.auditing.criteria import choose_criteria
from diffmem.auditing.significance import (
    DOUBT,
    FALSE_ALARM,
    TESTS,
    event_p_value,
    format_p,
    heldout_needed,
    level_of,
    rung_weights,
    share_of_samples,
    upper_bound,
)
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import Transforms


def others_allowed(events, share, level):
    """How many other events may be seen at most for the events of samples to count; none if even 0 are too many."""
    if event_p_value(events, 0, share) > level:
        return None
    allowed = 0
    while event_p_value(events, allowed + 1, share) <= level:
        allowed += 1
    return allowed


def test_none_of_many_bounds_the_share_by_three_over_their_number():
    assert upper_bound(0, 10_000) == pytest.approx(3 / 10_000, rel=2e-3)
    assert upper_bound(0, 10_000) == pytest.approx(1 - 0.05 ** (1 / 10_000))


def test_the_bound_of_all_is_one():
    assert upper_bound(7, 7) == 1.0


def fewest_events(others, share, level, start=1):
    """The fewest events of samples that count, beside so many others."""
    events = start
    while event_p_value(events, others, share) > level:
        events += 1
    return events


@pytest.mark.parametrize("level", [0.05, 0.002])
@pytest.mark.parametrize("share", these([0.2, 0.5, 0.9], 0.2, 0.5))
def test_the_p_value_is_below_a_level_no_more_often_than_that_whatever_the_mean(share, level):
    means = np.geomspace(0.05, 12, 30)
    others = np.arange(int(poisson.isf(1e-7, means[-1] * (1 - share))) + 1)
    fewest, at = [], 1
    for count in others.tolist():
        at = fewest_events(count, share, level, at)
        fewest.append(at)
    left = poisson.sf(
        others[-1], means * (1 - share)
    )  # of more others, all is counted as if it were significant
    for mean, more in zip(means, left, strict=True):
        tail = poisson.sf(np.array(fewest) - 1, mean * share)
        assert (poisson.pmf(others, mean * (1 - share)) * tail).sum() + more <= level * (1 + 1e-6)


@pytest.mark.parametrize(("share", "mean"), [(0.2, 400), (0.5, 400), (0.9, 2000)])
def test_of_many_events_the_p_value_is_below_a_level_no_more_often_than_that_either(share, mean):
    rng = np.random.default_rng(0)
    draws = 20_000
    events, others = rng.poisson(mean * share, draws), rng.poisson(mean * (1 - share), draws)
    pairs = zip(events.tolist(), others.tolist(), strict=True)
    values = np.array([event_p_value(one, other, share) for one, other in pairs])
    for level in (0.05, 0.01):
        assert (values <= level).sum() <= binom.isf(1e-4, draws, level)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_more_events_of_samples_count_more_and_more_others_less(share):
    table = np.array([[event_p_value(one, other, share) for other in range(8)] for one in range(1, 12)])
    assert (np.diff(table, axis=0) <= 1e-12).all()
    assert (np.diff(table, axis=1) >= -1e-12).all()
    assert table[-1, 0] < 0.01 < 0.5 < table[0, -1]


def test_the_p_value_grows_with_the_share_that_chance_gives_to_samples():
    values = [event_p_value(6, 1, share) for share in (0.1, 0.2, 0.4, 0.6, 0.8, 0.95)]
    assert values == sorted(values)


def test_where_every_event_is_one_of_samples_anyway_nothing_is_significant():
    assert event_p_value(50, 0, 1.0) == 1
    assert event_p_value(0, 0, 0.5) == 1
    assert event_p_value(0, 9, 0.5) == 1


def test_of_many_events_the_p_value_is_the_binomial_tail():
    assert event_p_value(120, 60, 0.5) == pytest.approx(binom.sf(119, 180, 0.5))
    assert event_p_value(1200, 60, 0.5) == pytest.approx(binom.sf(1199, 1260, 0.5))


def test_the_others_that_are_allowed_are_the_most():
    for events in (3, 8, 20):
        allowed = others_allowed(events, 0.3, 0.01)
        if allowed is None:
            assert event_p_value(events, 0, 0.3) > 0.01
        else:
            assert event_p_value(events, allowed, 0.3) <= 0.01 < event_p_value(events, allowed + 1, 0.3)
    assert others_allowed(1, 0.5, 0.001) is None


SIZES = [(10_000, 2000, 48_000), (700, 300, 700), (5000, 1000, 1000), (100, 0, 900)]


@pytest.mark.parametrize(("samples", "heldout", "training"), SIZES)
@pytest.mark.parametrize("compared", [1.0, 0.4, 0.05])
def test_of_pairs_with_a_training_image_no_larger_share_is_one_of_a_sample(
    samples, heldout, training, compared
):
    total = samples + heldout + training
    shares = {"s": samples / total, "h": heldout / total, "t": training / total}
    of_samples = seen = 0.0
    for one, other in itertools.product(shares, repeat=2):
        if "t" not in (one, other):
            continue
        chance = shares[one] * shares[other]
        if one == other:  # two training images flag each other only if one at least is compared
            chance *= 1 - (1 - compared) ** 2
        seen += chance
        of_samples += chance * ("s" in (one, other))
    bound = share_of_samples(samples, heldout, training, round(compared * training))
    assert of_samples / seen <= bound + 1e-9
    assert bound <= samples / (samples + heldout) + 1e-9


def test_held_out_images_alone_give_the_share_of_the_sizes():
    assert share_of_samples(300, 700) == 0.3
    assert share_of_samples(300, 700, 1000, 0) == 0.3
    assert share_of_samples(300, 0) == 1.0


@pytest.mark.parametrize("size", [3, 10, 50])
@pytest.mark.parametrize("compared", [1.0, 0.3])
def test_of_larger_groups_no_larger_share_is_one_of_samples(size, compared):
    samples, heldout, training = 10_000, 2000, 48_000
    total = samples + heldout + training
    rng = np.random.default_rng(size)
    draws = 100_000 // size
    # Samples, held-out images, training images that are compared with the others, and the rest of these.
    parts = np.array([samples, heldout, training * compared, training * (1 - compared)]) / total
    kinds = rng.choice(4, (draws, size), p=parts)
    gaps = rng.random((draws, size, size))
    gaps = np.minimum(gaps, gaps.transpose(0, 2, 1))
    first, second = kinds[:, :, None], kinds[:, None, :]
    # A pair is seen if one of it is a sample, held-out, or a training image that is compared, and the other a training image.
    seen = ((first != 3) & (second >= 2)) | ((second != 3) & (first >= 2))
    seen &= ~np.eye(size, dtype=bool)
    place = np.where(seen, gaps, np.inf).reshape(draws, -1).argmin(1)
    any_ = seen.reshape(draws, -1).any(1)
    pair = np.stack([kinds[np.arange(draws), place // size], kinds[np.arange(draws), place % size]])
    of_samples = (pair == 0).any(0)[any_]
    bound = share_of_samples(samples, heldout, training, round(compared * training))
    assert of_samples.sum() <= binom.isf(1e-4, len(of_samples), bound)


def test_more_held_out_images_leave_less_to_chance():
    for drawn in (0, 1000, 48_000):
        shares = [
            share_of_samples(10_000, number, 48_000, drawn) for number in (0, 100, 2000, 10_000, 100_000)
        ]
        assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(("events", "training", "drawn"), [(1, 48_000, 48_000), (2, 1000, 0), (5, 1000, 0)])
def test_the_held_out_images_that_are_said_to_be_needed_are_enough_and_hardly_fewer_are(
    events, training, drawn
):
    needed = heldout_needed(events, 10_000, 500, training, drawn, 0.002)

    def value(number):
        return event_p_value(events, 0, share_of_samples(10_000, number, training, drawn))

    assert value(needed) <= 0.002
    assert value(int(0.95 * needed) - 1) > 0.002
    assert heldout_needed(events, 10_000, needed, training, drawn, 0.002) >= needed


def test_more_events_need_fewer_held_out_images():
    numbers = [heldout_needed(events, 10_000, 0, 1000, 0, 0.002) for events in (1, 2, 5, 9)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > 100 * numbers[-1]


def test_where_no_number_of_held_out_images_decides_there_is_none():
    assert heldout_needed(1, 10_000, 0, 1000, 0, 1e-12) is None


def test_a_p_value_that_is_no_number_any_more_is_not_called_zero():
    assert format_p(0.0) == "p < 1e-300"
    assert format_p(0.0312) == "p = 0.031"
    assert math.isclose(float(format_p(3.4e-200).split()[-1]), 3.4e-200)


def features(key):
    return FeatureSpace(key, key, key, 0.75, lambda images: images)


def every_choice():
    """The criteria of training sets of all sizes, with and without changes and networks, at several thresholds."""
    (images,) = digits(120)
    for count, transforms, spaces, threshold in itertools.product(
        (1, 2, 3, 60, 120), (None, Transforms(True, 1)), ((), ("a",), ("a", "b")), (1 / 3, 1, 1 / 8, 1 / 20)
    ):
        yield choose_criteria(
            images[:count],
            lambda *given: np.zeros(1),
            threshold,
            transforms,
            [features(key) for key in spaces],
        )


def test_the_levels_of_all_tests_criteria_and_steps_are_the_error_together():
    number = 0
    for criteria in every_choice():
        levels = [
            level_of(criteria, one, rung, test)
            for one in criteria
            if one.role == "deciding"
            for rung in range(len(one.strictness))
            for test in TESTS
        ]
        assert sum(levels) == pytest.approx(FALSE_ALARM)
        assert min(levels) > 0
        number += 1
    assert number == 120


def test_parts_of_tests_and_of_steps_sum_to_one():
    assert sum(TESTS.values()) == pytest.approx(1)
    for count in (1, 2, 3, 4):
        assert len(rung_weights(count)) == count
        assert sum(rung_weights(count)) == pytest.approx(1)


def test_every_criterion_has_no_more_steps_than_there_are_parts():
    assert all(len(one.strictness) <= 4 for criteria in every_choice() for one in criteria)


def test_the_error_is_one_percent_and_a_doubt_is_larger_than_a_level():
    assert FALSE_ALARM == 0.01
    assert DOUBT > 1
