import numpy as np
from criteria_tools import COPIES, TRAINING, batch, check_ladder

from diffmem.auditing.criteria.adaptive import Adaptive
from diffmem.memorization import AdaptiveRule


def test_it_is_the_rule_of_the_mean_of_the_nearest():
    criterion, rule, found = Adaptive(TRAINING), AdaptiveRule(count=50), batch()
    scores = criterion(found)
    np.testing.assert_array_equal(scores.score, rule.ratio(found.neighbours["pixels"]))
    np.testing.assert_array_equal(criterion.flags(scores), rule(found.neighbours["pixels"]))
    check_ladder(criterion)


def test_copies_are_flagged_at_a_strictness_at_which_fresh_images_are_not():
    criterion = Adaptive(TRAINING)
    scores = criterion(batch())
    assert criterion.flags(scores, 2)[:COPIES].all()
    assert not criterion.flags(scores, 2)[90:].any()
    assert criterion.flags(scores)[90:].any()


def test_it_says_of_no_image_that_it_is_the_same_picture():
    criterion = Adaptive(TRAINING, 30)
    assert criterion.all_but_identical is None
    assert (criterion.title, criterion.neighbours_needed) == ("Nearest against the mean of 30", 30)
