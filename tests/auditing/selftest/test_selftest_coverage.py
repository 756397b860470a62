import numpy as np
import pytest
from scipy.stats import binom

from diffmem.auditing.selftest.checks import coverage_of_rates
from diffmem.memorization import Rate


def by_summing(trials, share, method):
    rates = [Rate(count, trials, method=method) for count in range(trials + 1)]
    covering = [count for count, rate in enumerate(rates) if rate.low <= share <= rate.high]
    return binom.pmf(covering, trials, share).sum()


@pytest.mark.parametrize("method", ["clopper-pearson", "wilson"])
@pytest.mark.parametrize("trials", [1, 7, 40])
def test_no_true_share_is_covered_less_often_than_stated(trials, method):
    found = coverage_of_rates(trials, method=method)
    rng = np.random.default_rng(0)
    shares = [*np.linspace(0, 1, 101), *rng.random(100), found.at]
    assert min(by_summing(trials, share, method) for share in shares) >= found.smallest - 1e-12
    assert by_summing(trials, found.at, method) == pytest.approx(found.smallest, abs=1e-12)


@pytest.mark.parametrize("trials", [1, 30, 200, 2000])
def test_exact_intervals_keep_their_promise_for_every_share(trials):
    found = coverage_of_rates(trials)
    assert 0.95 <= found.smallest <= found.mean <= 1
    assert (found.trials, found.method, found.confidence) == (trials, "clopper-pearson", 0.95)


def test_shorter_intervals_break_theirs_beside_the_ends():
    found = coverage_of_rates(200, method="wilson")
    assert found.smallest == pytest.approx(0.838, abs=0.001)
    assert min(found.at, 1 - found.at) < 0.01
    assert found.mean == pytest.approx(0.95, abs=0.002)


def test_other_confidence_is_other_coverage():
    assert 0.5 <= coverage_of_rates(50, 0.5).smallest < 0.7
