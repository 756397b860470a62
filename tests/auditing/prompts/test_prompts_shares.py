import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.auditing.prompts.shares import fisher_p_value, mean_share, share_interval, sign_p_value
from diffmem.memorization.rates import Rate


@given(st.integers(1, 60), st.data())
def test_whole_prompts_have_the_interval_of_clopper_and_pearson_however_many_seeds(total, data):
    count = data.draw(st.integers(0, total))
    found = mean_share(np.array([1.0] * count + [0.0] * (total - count)))
    rate = Rate(count, total)
    assert (found.value, found.prompts) == (pytest.approx(rate.value), total)
    assert (found.low, found.high) == (pytest.approx(rate.low, abs=1e-9), pytest.approx(rate.high, abs=1e-9))


def test_more_seeds_of_the_same_prompts_do_not_shorten_the_interval():
    four, many = mean_share(np.array([2 / 4, 0, 1])), mean_share(np.array([500 / 1000, 0, 1]))
    assert four == many


@pytest.mark.parametrize("correlation", [0, 0.5, 1])
@pytest.mark.parametrize("mean", [0.02, 0.3])
def test_intervals_by_prompt_cover_however_the_seeds_depend_and_by_sample_they_do_not(mean, correlation):
    rng = np.random.default_rng(3)
    chances = np.full((2000, 100), mean)
    if correlation:
        odds = (1 - correlation) / correlation if correlation < 1 else 1e-9
        chances = (
            rng.beta(mean * odds, (1 - mean) * odds, chances.shape)
            if correlation < 1
            else rng.binomial(1, mean, chances.shape)
        )
    copies = rng.binomial(8, chances)
    low, high = share_interval((copies / 8).sum(1), 100)
    assert ((low <= mean) & (mean <= high)).mean() >= 0.95
    low, high = share_interval(copies.sum(1), 800)
    by_sample = ((low <= mean) & (mean <= high)).mean()
    assert by_sample < 0.8 if correlation else by_sample > 0.94


def test_the_sign_test_is_that_of_fair_coins():
    assert sign_p_value(0, 5) == 1
    assert sign_p_value(5, 0) == pytest.approx(1 / 32)
    assert sign_p_value(3, 1) == pytest.approx(5 / 16)


def test_fishers_test_is_that_of_the_lady_tasting_tea():
    assert fisher_p_value(4, 4, 0, 4) == pytest.approx(1 / 70)
    assert fisher_p_value(3, 4, 1, 4) == pytest.approx(17 / 70)
    assert fisher_p_value(0, 4, 4, 4) == 1
