import numpy as np
import pytest
from criteria_tools import TRAINING, batch, check_ladder

from diffmem.auditing.criteria.ratio import RATIO_LADDER, Ratio
from diffmem.errors import UserError
from diffmem.memorization import RatioRule


@pytest.mark.parametrize("threshold", [1 / 3, 0.5, 0.2])
def test_it_is_the_ratio_rule(threshold):
    criterion, rule, found = Ratio(TRAINING, threshold), RatioRule(threshold), batch()
    scores = criterion(found)
    np.testing.assert_array_equal(scores.score, rule.ratio(found.neighbours["pixels"]))
    np.testing.assert_array_equal(criterion.flags(scores), rule(found.neighbours["pixels"]))
    check_ladder(criterion)


def test_the_ladder_goes_on_below_the_threshold():
    assert Ratio(TRAINING).strictness == (1 / 3, *RATIO_LADDER)
    assert Ratio(TRAINING, 0.2).strictness == (0.2, 1 / 6, 1 / 10)
    assert Ratio(TRAINING, 0.05).strictness == (0.05,)


def test_the_same_picture_is_asked_for_no_less_strictly_than_a_copy():
    assert Ratio(TRAINING).all_but_identical == 1 / 4
    assert Ratio(TRAINING, 0.1).all_but_identical == 0.1


def test_a_threshold_that_is_none_is_refused():
    with pytest.raises(UserError, match="threshold"):
        Ratio(TRAINING, 0)


def test_its_protocol_has_the_threshold():
    assert Ratio(TRAINING, 0.25).rule == "ratio<0.2500/exact-dups-collapsed/v1"
    assert Ratio(TRAINING).neighbours_needed == 2
