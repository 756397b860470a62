import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.errors import UserError
from diffmem.optimum.collapse import (
    bootstrap_crossing,
    collapse_isotropic,
    collapse_of_spectrum,
    crossing,
    isotropic_moments,
)


@given(st.integers(2, 10**7), st.integers(1, 300), st.floats(0.01, 10))
def test_equal_variances_give_the_formula_of_one_dimension(count, dimension, scale):
    spectrum = np.full(dimension, scale**2)
    assert collapse_of_spectrum(count, spectrum) == pytest.approx(
        collapse_isotropic(count, dimension, scale), rel=1e-6
    )
    assert isotropic_moments(spectrum) == pytest.approx((dimension, scale))


@given(st.integers(2, 10**6), st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_the_information_left_at_the_collapse_is_that_of_the_points(count, variances):
    spectrum = np.array(variances)
    sigma = collapse_of_spectrum(count, spectrum)
    assert 0.5 * np.log1p(spectrum / sigma**2).sum() == pytest.approx(math.log(count), rel=1e-6)


def test_the_formula_in_numbers():
    assert collapse_isotropic(4, 2, 3.0) == pytest.approx(3 / math.sqrt(4 - 1))
    assert isotropic_moments(np.array([2.0, 2.0, 1.0])) == pytest.approx((25 / 9, math.sqrt(9 / 5)))


@given(st.integers(2, 10**6), st.lists(st.floats(1e-3, 10), min_size=1, max_size=10), st.floats(0.1, 10))
def test_the_collapse_scales_with_the_data(count, variances, factor):
    spectrum = np.array(variances)
    scaled = collapse_of_spectrum(count, spectrum * factor**2)
    assert scaled == pytest.approx(factor * collapse_of_spectrum(count, spectrum), rel=1e-6)


@pytest.mark.parametrize("arguments", [(1, 2.0, 1.0), (5, 0.0, 1.0), (5, 2.0, 0.0), (5, 2.0, math.nan)])
def test_a_collapse_without_points_or_spread_is_a_mistake(arguments):
    with pytest.raises(UserError, match="2 points or more"):
        collapse_isotropic(*arguments)


@pytest.mark.parametrize(("count", "spectrum"), [(1, [1.0]), (5, []), (5, [1.0, 0.0])])
def test_a_spectrum_that_is_none_is_a_mistake(count, spectrum):
    with pytest.raises(UserError, match="positive variances"):
        collapse_of_spectrum(count, np.array(spectrum))


def test_a_crossing_is_linear_in_the_logarithm():
    assert crossing([1, 100], [1.0, 0.0]) == pytest.approx(10)
    assert crossing([1, 2, 4, 8], [1, 0.6, 0.4, 0]) == pytest.approx(math.sqrt(8))
    assert crossing([1, 2, 4], [0.5, 0.5, 0.0]) == pytest.approx(2)


@pytest.mark.parametrize("values", [[1, 0.9], [0.4, 0.1], [0.4, 0.6]])
def test_a_curve_that_does_not_fall_through_the_level_has_no_crossing(values):
    assert crossing([1, 2], values) is None


def test_the_interval_covers_the_crossing_of_the_mean_and_narrows_with_the_number_of_curves():
    sigmas = np.geomspace(0.1, 10, 21)

    def curves(count, seed):
        centres = np.exp(np.random.default_rng(seed).normal(0, 0.5, count))
        return 1 / (1 + (sigmas[:, None] / centres) ** 4)

    widths = []
    for count in (40, 4000):
        low, high = bootstrap_crossing(sigmas, curves(count, 1))
        assert low < crossing(sigmas, curves(count, 1).mean(1)) < high
        widths.append(math.log(high / low))
    assert widths[1] == pytest.approx(widths[0] / 10, rel=0.4)
    covered = 0
    for seed in range(60):
        low, high = bootstrap_crossing(sigmas, curves(100, seed), draws=200)
        covered += low < 1 < high  # the centres are symmetric in the logarithm
    assert covered >= 52


def test_an_end_that_is_outside_the_noise_levels_is_open():
    curves = np.array([[1.0] * 9 + [0.0], [1.0] * 5 + [0.0] * 5])
    low, high = bootstrap_crossing([1, 2], curves)
    assert (low, high) == (pytest.approx(low), None)
    assert 1 <= low <= 2
