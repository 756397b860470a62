from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from diffmem.errors import UserError
from diffmem.memorization.copying import compare_ranks


def test_nearer_is_the_share_of_pairs():
    samples, heldout = np.array([1.0, 2, 2, 9]), np.array([2.0, 3, 9])
    pairs = [(s < h) + 0.5 * (s == h) for s in samples for h in heldout]
    assert compare_ranks(samples, heldout).nearer == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize(("m", "n"), [(1, 1), (25, 40), (300, 30)])
def test_z_is_that_of_the_mann_whitney_u(m, n):
    rng = np.random.default_rng(m)
    samples, heldout = rng.random(m), rng.random(n) + 0.1
    u = mannwhitneyu(samples, heldout).statistic
    expected = (u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12)
    assert compare_ranks(samples, heldout).z == pytest.approx(expected, abs=1e-12)


def test_nearer_samples_have_a_negative_z():
    rng = np.random.default_rng(0)
    assert compare_ranks(rng.random(50), rng.random(50) + 1).z < -8
    assert compare_ranks(rng.random(50) + 1, rng.random(50)).z > 8


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_leaves_out_one_half_exactly_where_the_test_rejects(confidence):
    rng = np.random.default_rng(1)
    quantile = norm.ppf((1 + confidence) / 2)
    decisions = set()
    for shift in np.linspace(0, 1.5, 200):
        result = compare_ranks(rng.normal(size=30), rng.normal(size=45) + shift, confidence)
        bare = (result.nearer - 0.5) * 30 * 45 / result.spread
        outside = not result.nearer_low <= 0.5 <= result.nearer_high
        assert outside == (abs(bare) > quantile)
        decisions.add(outside)
    assert decisions == {True, False}


def test_the_interval_mirrors_when_the_groups_change_places():
    rng = np.random.default_rng(2)
    samples, heldout = rng.random(20), rng.random(35) + 0.3
    one, other = compare_ranks(samples, heldout), compare_ranks(heldout, samples)
    assert one.nearer_low == pytest.approx(1 - other.nearer_high, abs=1e-9)
    assert one.nearer_high == pytest.approx(1 - other.nearer_low, abs=1e-9)


@pytest.mark.parametrize("count", [1, 5, 100])
def test_complete_separation_still_has_a_width(count):
    result = compare_ranks(np.zeros(count), np.ones(count))
    assert result.nearer == result.nearer_high == 1
    assert 0 < result.nearer_low < 1
    other = compare_ranks(np.ones(count), np.zeros(count))
    assert other.nearer == other.nearer_low == 0
    assert 0 < other.nearer_high < 1


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_the_interval_covers_the_true_probability(shift):
    rng = np.random.default_rng(int(10 * shift))
    truth = norm.cdf(shift / np.sqrt(2))
    results = [compare_ranks(rng.normal(size=40), rng.normal(size=60) + shift) for _ in range(1000)]
    covered = np.mean([result.nearer_low <= truth <= result.nearer_high for result in results])
    assert 0.95 - 4 * np.sqrt(0.05 * 0.95 / 1000) <= covered <= 0.99


def test_empty_groups_and_impossible_confidences_are_refused():
    with pytest.raises(UserError, match="0 samples"):
        compare_ranks(np.array([]), np.ones(3))
    with pytest.raises(UserError, match="confidence"):
        compare_ranks(np.ones(3), np.ones(3), 1.0)
