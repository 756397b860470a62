import numpy as np
import pytest
from data_builders import image_set
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from diffmem.data.shares import KEY_BITS, count_of_share, pixel_keys
from diffmem.errors import UserError

SHARES = st.floats(0, 1)


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [
        (1000, 0.8, 800),
        (2000, 0.8, 1600),
        (500, 0.8, 400),
        (1000, 0.2, 200),
        (50, 0.29, 15),
        (5, 0.5, 3),
        (5, 0.1, 1),
    ],
)
def test_shares_are_rounded_half_up_and_never_truncated(n, share, count):  # trap: int() gave 199 / 801 at 0.8
    assert count_of_share(n, share) == count


@given(st.integers(0, 10**6), SHARES)
def test_a_share_and_the_rest_both_grow_with_the_whole(n, share):
    step = count_of_share(n + 1, share) - count_of_share(n, share)
    assert step in (0, 1)
    assert abs(count_of_share(n, share) - n * share) <= 0.5 + 1e-6


@given(st.integers(0, 10**6), SHARES, SHARES)
def test_a_larger_share_is_no_fewer_images(n, a, b):
    small, large = sorted((a, b))
    assert count_of_share(n, small) <= count_of_share(n, large)


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(UserError, match="between 0 and 1"):
        count_of_share(10, share)


def test_keys_are_uniform():
    keys = np.array(pixel_keys(image_set(5000, (1, 2, 3), 0), 0, "test"), float) / 2.0**KEY_BITS
    assert kstest(keys, "uniform").pvalue > 1e-3


def test_keys_depend_on_pixels_seed_and_purpose():
    images = image_set(1, (1, 2, 2))
    other = images.with_images(images.images ^ np.uint8(1), "changed")
    keys = [*pixel_keys(images, 0, "a"), *pixel_keys(images, 1, "a"), *pixel_keys(images, 0, "b")]
    assert len({*keys, *pixel_keys(other, 0, "a")}) == 4
