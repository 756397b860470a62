from __future__ import annotations

import numpy as np
import pytest

from diffmem.errors import UserError
from diffmem.memorization.criteria import AdaptiveRule, Criterion, RatioRule
from diffmem.memorization.measure import measure
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours


def uniform_null_rate(dimension: float) -> float:
    """About the share of fresh points that the rule flags in locally uniform data.

    Given the n-th neighbour at distance R, the others lie as independent points in its ball, and the mean of the n is near
    R * d / (d + 1): the nearest one is below the cut with probability 1 - (1 - c^d)^(n - 1), where c is 0.5 d / (d + 1).
    """
    return 1 - (1 - (0.5 * dimension / (dimension + 1)) ** dimension) ** 49


def neighbours(*rows: list[float]) -> Neighbours:
    distances = np.array(rows, dtype=np.float64)
    return Neighbours(distances, np.zeros(distances.shape, dtype=np.int64))


def pictures(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 6, 6), np.uint8)


def test_the_ratio_is_the_nearest_over_half_of_the_mean_of_fifty():
    found = neighbours([1.0] + [10.0] * 49)
    assert AdaptiveRule().ratio(found) == pytest.approx(1 / (0.5 * (1 + 49 * 10) / 50))


def test_the_cut_is_inclusive():
    # mean (2 + 2 x) / 3 of three; at x = 5 it is 4, and half of it is d1
    rule = AdaptiveRule(count=3)
    np.testing.assert_array_equal(
        rule(neighbours([2, 5, 5], [2, 5, 5.001], [2, 4.999, 5])), [True, True, False]
    )


def test_only_the_first_fifty_neighbours_count():
    row = [1.0] + [10.0] * 49
    np.testing.assert_array_equal(
        AdaptiveRule().ratio(neighbours([*row, 10.0], [*row, 1e9])),
        AdaptiveRule().ratio(neighbours(row, row)),
    )


def test_a_few_copies_in_training_blind_the_ratio_rule_but_not_this_one():
    training = pictures(0, 100)
    doubled = np.concatenate([training, training])
    noisy = (training[:40].astype(int) + 1).clip(0, 255).astype(np.uint8)
    found = nearest_neighbours(noisy, doubled, 50)
    assert RatioRule()(found).sum() == 0
    assert AdaptiveRule()(found).all()


def test_fifty_copies_in_training_blind_it_and_collapsing_them_mends_it():
    training = np.concatenate([pictures(1, 60), pictures(1, 1).repeat(49, 0)])
    sample = training[:1] ^ 1
    found = nearest_neighbours(sample, training, 50)
    assert AdaptiveRule().ratio(found) == pytest.approx(2)
    assert measure(sample, training, criterion=AdaptiveRule()).rate.count == 1


def test_exact_copies_are_memorized_even_where_all_neighbours_are_copies():
    rule = AdaptiveRule(count=3)
    assert rule(neighbours([0, 0, 0]))[0]
    assert rule.ratio(neighbours([0, 0, 0]))[0] == 0


def test_copies_are_found_and_fresh_images_are_not():
    training, fresh = pictures(2, 200), pictures(3, 50)
    samples = np.concatenate([training[:30], training[30:60] ^ 3, fresh])
    result = measure(samples, training, heldout=pictures(4, 50), criterion=AdaptiveRule())
    np.testing.assert_array_equal(result.memorized, [True] * 60 + [False] * 50)
    assert result.null is not None
    assert result.null.count == 0
    assert "adaptive<=1/alpha=0.5/n=50" in result.protocol


@pytest.mark.parametrize("dimension", [2, 3, 4, 6, 8])
def test_the_null_rate_is_that_of_uniform_points_in_a_ball(dimension):
    radii = np.sort(np.random.default_rng(dimension).random((40_000, 49)) ** (1 / dimension), 1)
    flagged = AdaptiveRule()(neighbours(*np.pad(radii, ((0, 0), (0, 1)), constant_values=1.0))).mean()
    assert uniform_null_rate(dimension) == pytest.approx(flagged, rel=0.1, abs=0.01)


def test_the_name_holds_all_constants():
    assert isinstance(AdaptiveRule(), Criterion)
    assert AdaptiveRule(0.25, 10, 1.5).name == "adaptive<=1.5/alpha=0.25/n=10"


def test_too_few_neighbours_are_refused_with_the_needed_number():
    for use in (AdaptiveRule(), AdaptiveRule().ratio):
        with pytest.raises(UserError, match=r"k = 50 or more, among at least 50 distinct"):
            use(neighbours([1.0] * 49))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": 1.1}, "alpha"),
        ({"count": 1}, "published count"),
        ({"threshold": 0}, "threshold"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_impossible_constants_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        AdaptiveRule(**arguments)
