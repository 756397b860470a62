import numpy as np
import pytest
from criteria_tools import TRAINING

from diffmem.auditing.criteria import NEIGHBOURS, choose_criteria
from diffmem.auditing.spaces import FeatureSpace
from diffmem.memorization import Transforms

NETWORK = FeatureSpace("features a", "a", "a", 0.75, lambda images: images)


def chosen(count, **settings):
    return choose_criteria(TRAINING[:count], lambda *given: np.zeros(1), **settings)


def keys(count, **settings):
    return [one.key for one in chosen(count, **settings)]


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, ["identical", "near"]),
        (2, ["identical", "near"]),
        (3, ["identical", "ratio", "repeats", "near", "inauthentic"]),
        (2 * NEIGHBOURS, ["identical", "ratio", "repeats", "near", "inauthentic"]),
        (2 * NEIGHBOURS + 1, ["identical", "ratio", "repeats", "adaptive", "near", "inauthentic"]),
    ],
)
def test_criteria_are_those_that_mean_something_with_so_many_references(count, expected):
    assert keys(count) == expected


def test_changes_and_networks_come_before_what_only_supports():
    found = chosen(200, transforms=Transforms(True, 0), features=[NETWORK])
    roles = [one.role for one in found]
    assert roles == sorted(roles)
    assert {"transforms", "features a"} <= {one.key for one in found}
    assert keys(2, transforms=Transforms(True, 0), features=[NETWORK]) == ["identical", "features a", "near"]


def test_no_criterion_looks_at_more_neighbours_than_there_are():
    for count in (3, 4, 10, 51, 200):
        for one in chosen(count, transforms=Transforms(True, 0)):
            assert one.neighbours_needed <= count - 1 or one.neighbours_needed <= 2, (count, one.key)


def test_keys_are_unique_and_every_criterion_has_a_title_and_a_rule():
    found = chosen(200, transforms=Transforms(True, 0), features=[NETWORK])
    assert len({one.key for one in found}) == len(found)
    assert all(one.title and one.rule and one.strictness for one in found)


def test_the_threshold_is_that_of_all_ratio_rules():
    thresholds = {
        one.key: one.strictness[0] for one in chosen(200, threshold=0.2, transforms=Transforms(True, 0))
    }
    assert thresholds["ratio"] == thresholds["repeats"] == thresholds["transforms"] == 0.2
