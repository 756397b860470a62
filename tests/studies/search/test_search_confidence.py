import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from diffmem.errors import UserError
from diffmem.studies.search.confidence import anytime_interval, log_evidence_above, log_evidence_below
from diffmem.studies.search.decisions import part_size


@pytest.mark.parametrize(("count", "total"), [(0, 0), (5, 5), (37, 40), (30, 40), (190, 200)])
@pytest.mark.parametrize("target", [0.5, 0.9])
def test_the_evidence_is_the_integral_that_the_docstring_names(count, total, target):
    misses = total - count
    integral = quad(lambda p: p**count * (1 - p) ** misses, target, 1, epsabs=0, epsrel=1e-10)[0]
    expected = integral / (1 - target) / (target**count * (1 - target) ** misses)
    assert log_evidence_above(count, total, target) == pytest.approx(math.log(expected), abs=1e-8)


@pytest.mark.parametrize("target", [0.3, 0.9])
@pytest.mark.parametrize("total", [1, 7, 60])
def test_at_the_target_the_expected_evidence_is_one_and_below_it_less(target, total):
    counts = np.arange(total + 1)
    evidence = np.exp([log_evidence_above(int(count), total, target) for count in counts])
    assert binom.pmf(counts, total, target) @ evidence == pytest.approx(1, abs=1e-9)
    for rate in (0.5 * target, 0.97 * target):
        assert binom.pmf(counts, total, rate) @ evidence < 1


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.05, 0.95))
def test_the_two_sides_mirror_each_other(hits, misses, target):
    above = log_evidence_above(hits, hits + misses, target)
    assert above == pytest.approx(log_evidence_below(misses, hits + misses, 1 - target), abs=1e-9)


def test_evidence_is_finite_where_its_integral_underflows():
    assert -math.inf < log_evidence_above(0, 100_000, 0.9) < 0
    assert -math.inf < log_evidence_below(100_000, 100_000, 0.1) < 0


def test_where_the_integral_underflows_the_bound_is_near_it():
    """In the last case that does not underflow, both ways are compared: -690 is near the end of float64."""
    from scipy.special import betaincc

    hits, misses, target = 5, 270, 0.9
    assert 0 < betaincc(hits + 1, misses + 1, target) < 1e-250
    exact = log_evidence_above(hits, hits + misses, target)
    fall = misses / (1 - target) - hits / target
    assert exact == pytest.approx(-math.log(fall * (1 - target)), abs=0.05)


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_an_interval_holds_the_share_that_was_seen(hits, misses):
    low, high = anytime_interval(hits, hits + misses)
    assert 0 <= low <= high <= 1
    if hits + misses:
        assert low <= hits / (hits + misses) <= high
    else:
        assert (low, high) == (0, 1)


def test_an_interval_narrows_with_images_and_is_wider_than_one_that_may_look_only_once():
    from diffmem.memorization.rates import Rate

    widths = []
    for total in (20, 200, 2000, 20_000):
        low, high = anytime_interval(total * 9 // 10, total)
        once = Rate(total * 9 // 10, total)
        assert low < once.low
        assert once.high < high
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.02


def run_of_looks(rate, rng, runs, cap=10_000):
    """For each run, the counts after each part of the sampling, in the parts of a real search."""
    parts, start = [], 0
    while more := part_size(start, cap):
        parts.append(more)
        start += more
    return np.cumsum(parts), np.cumsum(rng.binomial(parts, rate, size=(runs, len(parts))), axis=1)


@pytest.mark.parametrize("rate", [0.8, 0.89, 0.899, 0.9, 0.901, 0.91, 0.97])
def test_however_often_one_looks_an_interval_misses_the_rate_at_most_as_often_as_it_says(rate):
    runs, alpha = 400, 0.05
    totals, counts = run_of_looks(rate, np.random.default_rng(int(1000 * rate)), runs)
    bar = math.log(2 / alpha)
    missed = 0
    for row in counts:
        above = any(log_evidence_above(int(c), int(n), rate) >= bar for c, n in zip(row, totals, strict=True))
        below = any(log_evidence_below(int(c), int(n), rate) >= bar for c, n in zip(row, totals, strict=True))
        missed += above or below
    assert missed <= binom.ppf(0.999, runs, alpha)


def test_a_fixed_sample_interval_would_miss_it_more_often_than_it_says():
    """The reason for all this: looking again and again with Clopper-Pearson."""
    from diffmem.memorization.rates import Rate

    totals, counts = run_of_looks(0.9, np.random.default_rng(0), 200)
    missed = sum(
        any(
            not (one := Rate(int(c), int(n))).low <= 0.9 <= one.high for c, n in zip(row, totals, strict=True)
        )
        for row in counts
    )
    assert missed > 2 * 0.05 * 200


def test_numbers_out_of_range_are_refused():
    with pytest.raises(UserError, match="count"):
        log_evidence_above(5, 4, 0.9)
    with pytest.raises(UserError, match="target rate"):
        log_evidence_below(1, 4, 1.0)
    with pytest.raises(UserError, match="confidence"):
        anytime_interval(1, 4, 1.0)
