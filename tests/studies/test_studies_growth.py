import math

import numpy as np
import pytest
from scipy import stats

from diffmem.studies.growth import power_law

SHARES = (0.025, 0.5, 0.975)
SIZES = np.repeat(np.log([64, 128, 256, 512]), 2)


def regression(x, y):
    fit = stats.linregress(x, y)
    freedom = len(x) - 2
    scatter = math.sqrt(float(((y - fit.intercept - fit.slope * x) ** 2).sum()) / freedom)
    return fit, scatter, stats.t.ppf(0.975, freedom)


@pytest.fixture
def exact():
    rng = np.random.default_rng(0)
    return 5 + SIZES + 0.5 * rng.standard_normal(len(SIZES))


def test_known_times_give_the_intervals_of_student(exact):
    law = power_law(SIZES, exact - 1e-4, exact + 1e-4)
    fit, scatter, t = regression(SIZES, exact)
    assert law.exponents(SHARES) == pytest.approx(
        [fit.slope - t * fit.stderr, fit.slope, fit.slope + t * fit.stderr], abs=8e-3
    )
    new = math.log(2000)
    leverage = 1 / len(SIZES) + (new - SIZES.mean()) ** 2 / ((SIZES - SIZES.mean()) ** 2).sum()
    middle = fit.intercept + fit.slope * new
    for quantiles, width in (
        (law.predictions(new, SHARES), t * scatter * math.sqrt(1 + leverage)),
        (law.medians(new, SHARES), t * scatter * math.sqrt(leverage)),
    ):
        assert quantiles == pytest.approx([middle - width, middle, middle + width], abs=3e-2)


def test_known_times_give_the_interval_of_the_scatter_by_chi_squared(exact):
    law = power_law(SIZES, exact - 1e-4, exact + 1e-4)
    _, scatter, _ = regression(SIZES, exact)
    freedom = len(SIZES) - 2
    low, high = scatter * np.sqrt(freedom / stats.chi2.ppf([0.975, 0.025], freedom))
    assert law.scatters((0.025, 0.975)) == pytest.approx([low, high], rel=0.18)  # the grid's steps are 18%


def test_another_unit_of_time_moves_the_scale_alone(exact):
    one, other = (power_law(SIZES, exact - 0.2 + shift, exact + 0.2 + shift) for shift in (0, 3))
    assert one.exponents(SHARES) == pytest.approx(other.exponents(SHARES), abs=1e-3)
    assert np.subtract(other.medians(5, SHARES), one.medians(5, SHARES)) == pytest.approx([3, 3, 3], abs=1e-3)


def test_a_run_that_says_nothing_changes_nothing(exact):
    one = power_law(SIZES, exact - 0.2, exact + 0.2)
    more = power_law([*SIZES, 7.0], [*(exact - 0.2), -math.inf], [*(exact + 0.2), math.inf])
    assert one.exponents(SHARES) == pytest.approx(more.exponents(SHARES), abs=1e-6)


def test_a_run_that_never_got_there_raises_the_exponent():
    lows, highs = SIZES + 3.9, SIZES + 4.1
    one = power_law(SIZES, lows, highs)
    more = power_law([*SIZES, math.log(2048)], [*lows, math.log(2048) + 5.0], [*highs, math.inf])
    assert more.exponents([0.5])[0] > one.exponents([0.5])[0] + 0.05


def test_wide_gaps_between_evaluations_allow_every_law_that_passes_through_all():
    law = power_law(SIZES, SIZES + 4, SIZES + 4 + math.log(2))
    steepest = 1 + math.log(2) / math.log(8)
    low, middle, high = law.exponents(SHARES)
    assert middle == pytest.approx(1, abs=0.01)
    assert 2 - steepest < low < 0.85
    assert 1.15 < high < steepest + 0.1
