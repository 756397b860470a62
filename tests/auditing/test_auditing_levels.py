import itertools

import numpy as np
import pytest
from audit_tools import digits

from diffmem.auditing.criteria import choose_criteria
from diffmem.auditing.levels import DOUBT, FALSE_ALARM, TESTS, level_of, rung_weights
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import Transforms


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
