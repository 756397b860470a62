from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.reports.style import (
    epoch_axis,
    new_figure,
    ordered_colours,
    percent_axis,
    readable_ticks,
    size_axis,
)


@given(st.sets(st.integers(1, 100_000), min_size=1, max_size=30))
def test_readable_ticks_keep_the_smallest_and_leave_room(values):
    low, high = min(values) / 1.1, max(values) * 1.1
    kept = readable_ticks(list(values), low, high)
    assert kept[0] == min(values)
    assert set(kept) <= values
    assert all(math.log(b / a) >= 0.074 * math.log(high / low) for a, b in pairwise(kept))


def test_ticks_that_all_fit_are_all_kept():
    assert readable_ticks([500, 1000, 2000, 4000], 400, 5000) == [500, 1000, 2000, 4000]


def tick_labels(axes):
    axes.figure.canvas.draw()
    return [label.get_text() for label in axes.get_xticklabels()]


def test_sizes_are_plain_numbers_at_the_ticks():
    axes = new_figure().subplots()
    size_axis(axes, [500, 1000, 2000, 4000])
    assert tick_labels(axes) == ["500", "1,000", "2,000", "4,000"]


@pytest.mark.parametrize(
    ("epochs", "labels"),
    [
        ([100, 4000], ["100", "200", "500", "1,000", "2,000"]),
        ([1, 40000], ["1", "10", "100", "1,000", "10,000"]),
        ([0.5, 4], ["0.5", "1", "2"]),
        ([300], ["200", "500"]),
        ([250.0, 353.6, 500.0], ["250", "354", "500"]),  # of round numbers, only 500 is among them
    ],
)
def test_epochs_have_round_numbers(epochs, labels):
    axes = new_figure().subplots()
    epoch_axis(axes, epochs)
    assert set(labels) <= set(tick_labels(axes))


def test_the_percent_axis_runs_from_zero_to_a_hundred():
    axes = new_figure().subplots()
    percent_axis(axes)
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "0%",
        "20%",
        "40%",
        "60%",
        "80%",
        "100%",
    ]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_ordered_colours_grow_lighter_but_stay_visible_on_white(count):
    luminance = np.array(ordered_colours(count)) @ np.array([0.2126, 0.7152, 0.0722])
    assert len(luminance) == count
    assert (np.diff(luminance) > 0).all()
    assert luminance.max() < 0.7
