from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.errors import UserError
from diffmem.memorization.criteria import Criterion, RatioRule
from diffmem.memorization.neighbours.neighbours import Neighbours


def neighbours(*rows: tuple[float, ...]) -> Neighbours:
    distances = np.array(rows, dtype=np.float64)
    return Neighbours(distances, np.zeros(distances.shape, dtype=np.int64))


def test_the_ratio_rule_is_strict():
    found = RatioRule(0.5)(neighbours((1, 2), (1, 2.0001), (0.9999, 2), (0, 1)))
    np.testing.assert_array_equal(found, [False, True, True, True])


def test_two_exact_copies_are_not_memorized_under_the_bare_rule():  # trap: 0 / 0 gives NaN
    twins = neighbours((0, 0), (3, 3))
    np.testing.assert_array_equal(RatioRule()(twins), [False, False])
    np.testing.assert_array_equal(RatioRule().ratio(twins), [1, 1])


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(1e-3, 1e3))
def test_the_rule_does_not_depend_on_the_unit(nearest, gap, unit):
    first, second = nearest, nearest + gap
    rule = RatioRule()
    if abs(first - second / 3) > 1e-9 * second:
        assert rule(neighbours((first, second))) == rule(neighbours((unit * first, unit * second)))


def test_ratios_lie_between_zero_and_one():
    np.testing.assert_allclose(RatioRule().ratio(neighbours((0, 5), (1, 4), (4, 4), (0, 0))), [0, 0.25, 1, 1])


def test_only_the_first_two_neighbours_count():
    np.testing.assert_array_equal(RatioRule()(neighbours((1, 4, 4), (1, 2, 99))), [True, False])


def test_rules_name_their_constants():
    assert RatioRule().name == "ratio<0.3333"
    assert isinstance(RatioRule(), Criterion)


def test_the_ratio_rule_refuses_a_single_neighbour():
    for use in (RatioRule(), RatioRule().ratio):
        with pytest.raises(UserError, match="k = 2 or more"):
            use(neighbours((1,), (2,)))


@pytest.mark.parametrize("threshold", [0, -1, 1.5, float("nan")])
def test_impossible_thresholds_are_refused(threshold):
    with pytest.raises(UserError, match="threshold"):
        RatioRule(threshold)
