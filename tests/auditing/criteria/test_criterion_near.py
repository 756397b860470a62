import numpy as np
from criteria_tools import COPIES, TRAINING, batch, check_ladder

from diffmem.auditing.criteria.near import NEAR_RMS, Near
from diffmem.memorization import NormalizedRule


def test_it_is_the_rule_of_the_rms_difference():
    criterion, rule, found = Near(TRAINING), NormalizedRule(NEAR_RMS, (1, 8, 8)), batch()
    scores = criterion(found)
    np.testing.assert_allclose(scores.score, found.neighbours["pixels"].distances[:, 0] / (255 * 8))
    np.testing.assert_array_equal(criterion.flags(scores), rule(found.neighbours["pixels"]))
    assert criterion.flags(scores)[:COPIES].all()
    check_ladder(criterion)


def test_it_supports_and_decides_nothing():
    assert Near(TRAINING).role == "supporting"


def test_it_tells_the_same_picture_only_where_there_is_no_second_neighbour():
    assert Near(TRAINING).all_but_identical is None
    assert Near(TRAINING[:3]).all_but_identical is None
    assert Near(TRAINING[:2]).all_but_identical == Near(TRAINING[:1]).all_but_identical == NEAR_RMS
