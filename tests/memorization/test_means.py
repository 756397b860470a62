import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.memorization.rates import mean_record

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


def test_the_standard_error_is_the_deviation_by_the_root_of_the_number():
    found = mean_record([1.0, 2.0, 3.0, 6.0])
    assert found.value == 3
    assert found.se == pytest.approx(np.std([1, 2, 3, 6], ddof=1) / 2)
    assert found.high - found.value == pytest.approx(1.959964 * found.se)


def test_a_single_sample_has_no_error():
    assert mean_record([2.5]).se == 0


@given(numbers)
def test_the_interval_holds_the_mean_and_keeps_its_limits(values):
    found = mean_record(values)
    assert found.low <= found.value <= found.high
    limited = mean_record(values, min(values), max(values))
    assert min(values) <= max(limited.low, min(values))
    assert limited.low <= limited.value <= limited.high


def test_the_interval_of_a_share_stays_within_the_possible():
    found = mean_record([0.0] * 9 + [1.0], 0, 1)
    assert found.low == 0
    assert found.high < 1
