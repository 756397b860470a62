import numpy as np
from criteria_tools import COPIES, SAMPLES, TRAINING, batch, check_ladder

from diffmem.auditing.criteria import PIXELS, Batch
from diffmem.auditing.criteria.inauthentic import Inauthentic
from diffmem.memorization import Neighbours, nearest_neighbours


def gaps(chosen, own):
    found = nearest_neighbours(TRAINING[chosen], TRAINING, 3)
    second = found.distances[:, 1].copy()
    if own is not None:
        second[found.indices[:, 1] == own] = found.distances[found.indices[:, 1] == own, 2]
    return second


def test_it_is_the_rule_of_authpct():
    criterion = Inauthentic(TRAINING, gaps)
    scores = criterion(batch())
    nearest = nearest_neighbours(SAMPLES, TRAINING, 1)
    authentic = gaps(nearest.indices[:, 0], None) < nearest.distances[:, 0]
    np.testing.assert_array_equal(criterion.flags(scores), ~authentic)
    assert criterion.flags(scores)[:COPIES].all()
    check_ladder(criterion)


def one(distance, gap):
    found = Batch(SAMPLES[:1], {PIXELS: Neighbours(np.array([[distance]]), np.array([[0]]))})
    criterion = Inauthentic(TRAINING, lambda chosen, own: np.array([gap]))
    return bool(criterion.flags(criterion(found))[0])


def test_as_near_as_the_neighbour_counts_and_farther_does_not():
    assert one(5.0, 5.0)
    assert not one(5.0001, 5.0)


def test_where_the_neighbour_is_at_no_distance_only_an_identical_image_counts():
    assert one(0.0, 0.0)
    assert not one(0.1, 0.0)


def test_a_training_image_is_no_neighbour_of_the_one_that_it_is_compared_with():
    asked = []
    criterion = Inauthentic(TRAINING, lambda chosen, own: asked.append(own) or np.ones(len(chosen)))
    own = np.array([7])
    criterion(Batch(SAMPLES[:1], {PIXELS: Neighbours(np.array([[1.0]]), np.array([[3]]))}, (), own))
    assert asked[0] is own


def test_it_supports_and_decides_nothing():
    assert Inauthentic(TRAINING, gaps).role == "supporting"
