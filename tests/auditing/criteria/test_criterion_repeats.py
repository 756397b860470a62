import numpy as np
import pytest
from criteria_tools import TRAINING, batch, check_ladder, noisy

from diffmem.auditing.criteria.ratio import Ratio
from diffmem.auditing.criteria.repeats import Repeats
from diffmem.memorization import RepeatAwareRule


@pytest.mark.parametrize(("threshold", "count"), [(1 / 3, 50), (0.5, 10)])
def test_it_is_the_rule_that_passes_near_copies_over(threshold, count):
    criterion, found = Repeats(TRAINING, threshold, count), batch()
    rule = RepeatAwareRule(TRAINING, threshold, count)
    scores = criterion(found)
    np.testing.assert_array_equal(scores.score, rule.ratio(found.neighbours["pixels"]))
    np.testing.assert_array_equal(criterion.flags(scores), rule(found.neighbours["pixels"]))
    check_ladder(criterion)


def test_copies_of_images_with_near_copies_in_the_training_set_are_seen_at_every_step():
    training = np.concatenate([TRAINING, noisy(TRAINING[:30], 3, seed=7)])
    found = batch(TRAINING[:30], training)
    near = batch(noisy(TRAINING[:30], 3, seed=8), training)
    criterion, plain = Repeats(training), Ratio(training)
    assert criterion.flags(criterion(found), 3).all()
    assert criterion.flags(criterion(near)).mean() > 0.9
    assert not plain.flags(plain(near)).any()


def test_it_is_never_above_the_ratio():
    found = batch()
    assert (Repeats(TRAINING)(found).score <= Ratio(TRAINING)(found).score + 1e-12).all()


def test_its_protocol_has_the_neighbours():
    assert (
        Repeats(TRAINING, count=20).rule
        == "ratio<0.3333/near-copies-passed-over/n=20/exact-dups-collapsed/v1"
    )
    assert Repeats(TRAINING, count=20).neighbours_needed == 20
