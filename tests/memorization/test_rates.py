from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import binom

from diffmem.errors import UserError
from diffmem.memorization.criteria import RatioRule
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.memorization.rates import Rate


def test_a_rate_prints_its_share_its_interval_and_its_counts():
    assert str(Rate(913, 1000)) == "91.3% [89.4, 93.0] (913/1000)"


@pytest.mark.parametrize("total", [1, 7, 50, 10_000])
def test_clopper_pearson_has_its_closed_form_at_the_ends(total):
    none, every = Rate(0, total), Rate(total, total)
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / total), rel=1e-9)
    assert every.high == 1
    assert every.low == pytest.approx(0.025 ** (1 / total), rel=1e-9)


@pytest.mark.parametrize(("count", "total"), [(1, 10), (13, 40), (900, 1000)])
def test_clopper_pearson_ends_leave_half_of_alpha_in_each_tail(count, total):
    rate = Rate(count, total, confidence=0.9)
    assert binom.sf(count - 1, total, rate.low) == pytest.approx(0.05, rel=1e-6)
    assert binom.cdf(count, total, rate.high) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("count", [0, 3, 20])
def test_wilson_ends_solve_its_quadratic(count):
    rate, z = Rate(count, 20, method="wilson"), 1.959963984540054
    for end in (rate.low, rate.high):
        assert abs(rate.value - end) == pytest.approx(z * np.sqrt(end * (1 - end) / 20), abs=1e-9)


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.93])
def test_clopper_pearson_covers_at_least_its_confidence(probability):
    total = 60
    counts = np.random.default_rng(0).binomial(total, probability, 4000)
    intervals = {count: Rate(int(count), total) for count in np.unique(counts)}
    covered = np.mean([intervals[count].low <= probability <= intervals[count].high for count in counts])
    assert covered >= 0.95 - 3 * np.sqrt(0.05 * 0.95 / 4000)


def test_more_confidence_gives_a_wider_interval():
    narrow, wide = Rate(30, 100, 0.8), Rate(30, 100, 0.99)
    assert wide.low < narrow.low < 0.3 < narrow.high < wide.high


def test_a_rate_becomes_plain_json():
    content = json.loads(json.dumps(Rate(1, 4).model_dump()))
    assert content["value"] == 0.25
    assert content["count"] == 1
    assert content["total"] == 4
    assert content["low"] < 0.25 < content["high"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "at least one image"),
        ((5, 4), "count"),
        ((-1, 4), "count"),
        ((1, 4, 1.0), "confidence"),
        ((1, 4, 0.95, "wald"), "wald"),
    ],
)
def test_impossible_rates_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        Rate(*arguments)


@pytest.mark.parametrize("dimension", [1, 2, 3, 4])
def test_fresh_uniform_points_are_flagged_at_the_closed_form_rate(dimension):
    # On a torus there is no border, so the closed form is exact up to the number of points: images of the
    # references at a distance of one period stand for its other side.
    rng = np.random.default_rng(dimension)
    queries = 0.25 + 0.5 * rng.random((8000, dimension))
    references = rng.random((3000, dimension))
    flagged = RatioRule()(nearest_neighbours(queries, references, 2)).sum()
    expected = 3.0**-dimension
    # Queries share references, so their outcomes are correlated when queries outnumber them: allow five
    # errors.
    assert abs(flagged / 8000 - expected) < 5 * np.sqrt(expected / 8000)
