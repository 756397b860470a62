import numpy as np
import pytest
from criteria_tools import COPIES, SAMPLES, TRAINING

from diffmem.auditing.criteria import Batch
from diffmem.auditing.criteria.features import Similar
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import SimilarityRule, nearest_neighbours


def flat(images):
    return images.reshape(len(images), -1).astype(np.float64) + 1


def network(threshold):
    return FeatureSpace("features flat", "flat", "flat/1", threshold, flat)


def batch():
    found = nearest_neighbours(flat(SAMPLES), flat(TRAINING), 2, metric="cosine")
    return Batch(SAMPLES, {"features flat": found})


@pytest.mark.parametrize("threshold", [0.99, 0.75, 0.5])
def test_it_is_the_rule_of_similarity(threshold):
    criterion, found = Similar(TRAINING, network(threshold)), batch()
    scores = criterion(found)
    rule = SimilarityRule(threshold)
    np.testing.assert_array_equal(criterion.flags(scores), rule(found.neighbours["features flat"]))
    assert criterion.flags(scores)[:COPIES].all()
    assert scores.copied[:COPIES].tolist() == list(range(COPIES))


def test_stricter_steps_are_a_half_and_a_quarter_of_the_way_to_one():
    assert Similar(TRAINING, network(0.6)).strictness == pytest.approx((0.4, 0.2, 0.1))


def test_it_goes_by_the_name_of_its_network_and_knows_no_grey_levels():
    criterion = Similar(TRAINING, network(0.75))
    assert criterion.key == criterion.space == "features flat"
    assert criterion.values is None
    assert criterion.all_but_identical is None
    assert criterion.title == "Similarity of features (flat)"
