import numpy as np
import pytest
from scipy.stats import fisher_exact

from diffmem.auditing.significance import chance_of, null_images_needed, p_words, upper_bound


def test_none_of_many_bounds_the_share_by_three_over_their_number():
    assert upper_bound(0, 10_000) == pytest.approx(3 / 10_000, rel=2e-3)
    assert upper_bound(0, 10_000) == pytest.approx(1 - 0.05 ** (1 / 10_000))


def test_the_bound_of_all_is_one():
    assert upper_bound(7, 7) == 1.0


@pytest.mark.parametrize(
    ("flagged", "total", "null", "of"), [(5, 100, 1, 200), (0, 50, 0, 10), (300, 1000, 20, 400)]
)
def test_the_p_value_is_that_of_fishers_exact_test(flagged, total, null, of):
    table = [[flagged, total - flagged], [null, of - null]]
    wanted = fisher_exact(table, alternative="greater").pvalue
    assert chance_of(flagged, total, null, of).p_value == pytest.approx(wanted)
    assert chance_of(flagged, total, null, of).expected == pytest.approx(total * null / of)


def test_without_copying_the_p_value_is_below_a_level_no_more_often_than_that():
    rng = np.random.default_rng(0)
    for share in (0.001, 0.02, 0.2):
        counts = zip(rng.binomial(2000, share, 2000), rng.binomial(700, share, 2000), strict=True)
        values = np.array([chance_of(int(one), 2000, int(null), 700).p_value for one, null in counts])
        assert (values <= 0.05).mean() <= 0.06


def test_the_null_images_that_are_said_to_be_needed_are_enough_and_hardly_fewer_are():
    needed = null_images_needed(3, 10_000, 0.002)
    assert chance_of(3, 10_000, 0, needed).p_value <= 0.002
    assert chance_of(3, 10_000, 0, int(0.97 * needed)).p_value > 0.002


def test_more_flagged_samples_need_fewer_null_images():
    numbers = [null_images_needed(flagged, 10_000, 0.002) for flagged in (1, 2, 5, 20, 100)]
    assert numbers == sorted(numbers, reverse=True)


def test_a_p_value_that_is_no_number_any_more_is_not_called_zero():
    assert chance_of(10_000, 10_000, 0, 10_000).p_value == 0
    assert p_words(0.0) == "p < 1e-300"
    assert p_words(0.0312) == "p = 0.031"
