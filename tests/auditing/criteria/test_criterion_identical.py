import numpy as np
from criteria_tools import SAMPLES, TRAINING, batch, check_ladder

from diffmem.auditing.criteria.identical import Identical


def test_only_images_of_the_same_pixels_are_flagged():
    criterion = Identical(TRAINING)
    flags = criterion.flags(criterion(batch()))
    same = [any(np.array_equal(one, other) for other in TRAINING) for one in SAMPLES]
    np.testing.assert_array_equal(flags, same)
    assert flags.sum() >= 20


def test_one_grey_level_in_one_value_is_not_identical():
    image = TRAINING[:1].copy()
    image[0, 0, 3, 3] += 1
    criterion = Identical(TRAINING)
    scores = criterion(batch(image))
    assert scores.distance.tolist() == [1.0]
    assert not criterion.flags(scores).any()


def test_it_says_that_it_sees_exact_copies_alone():
    criterion = Identical(TRAINING)
    check_ladder(criterion)
    assert (criterion.key, criterion.role, criterion.exact_only) == ("identical", "deciding", True)
    assert criterion.neighbours_needed == 1
    assert criterion.rule == "identical/v1"
    assert criterion.values == 64
