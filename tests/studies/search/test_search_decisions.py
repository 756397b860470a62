import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmem.studies.search.decisions import (
    FutilityRule,
    StoppingRule,
    part_size,
    projected_rate,
)

EPOCHS = [100.0, 200.0, 400.0, 800.0]


def rule(cap=2000, early=200, budget=5000, alpha=0.004, points=4, futility=None):
    return StoppingRule(0.9, alpha, points, cap, early, budget, futility)


def run(one, rates, epochs=EPOCHS, counts=None):
    """Sample with exactly the expected number of hits until the verdict is final."""
    counts = counts or [(0, 0)] * len(epochs)
    while (now := one.state(epochs, counts)).more:
        total = counts[now.point][1] + now.more
        counts = [*counts[: now.point], (round(rates[now.point] * total), total), *counts[now.point + 1 :]]
    return now, counts


def test_parts_grow_by_a_quarter_and_end_at_the_cap():
    start, sizes = 0, []
    while more := part_size(start, 1000):
        sizes.append(more)
        start += more
    assert start == 1000
    assert sizes[:5] == [32, 32, 32, 32, 32]
    assert sizes[6] == 50
    assert sizes[:-1] == sorted(sizes[:-1])


def test_certain_memorization_ends_sampling_and_training():
    now, counts = run(rule(), [0.1, 0.99, 1.0, 1.0])
    assert (now.verdict, now.stopped) == ("memorized", "decided")
    assert counts[2] == counts[3] == (0, 0)
    assert counts[1][1] <= 200


def test_memorization_that_is_certain_at_the_last_point_only_is_found_there():
    now, counts = run(rule(), [0.1, 0.5, 0.85, 0.95])
    assert (now.verdict, now.stopped) == ("memorized", "end")
    assert counts[3][1] > 200  # more than while training goes on


def test_a_size_that_memorizes_nowhere_costs_few_images():
    now, counts = run(rule(), [0.0, 0.1, 0.3, 0.5])
    assert (now.verdict, now.stopped) == ("not memorized", "end")
    assert sum(total for _, total in counts) == 4 * 32


def test_at_the_target_rate_nothing_is_decided_and_sampling_ends_at_the_cap_or_the_budget():
    now, counts = run(rule(), [0.0, 0.1, 0.3, 0.9])
    assert now.verdict == "undecided"
    assert counts[3][1] == 2000
    now, counts = run(rule(budget=700), [0.0, 0.1, 0.3, 0.9])
    assert now.verdict == "undecided"
    assert 700 <= sum(total for _, total in counts) - 4 * 32 < 700 * 1.25


def test_at_the_end_the_point_with_the_highest_rate_gets_images_first():
    now, counts = run(rule(early=64), [0.0, 0.84, 0.95, 0.84])
    assert now.verdict == "memorized"
    assert counts[2][1] > counts[1][1] == counts[3][1] == 64


def test_a_point_whose_images_were_lost_is_sampled_again_before_the_verdict():
    one = rule()
    _, counts = run(one, [0.0, 0.1, 0.3, 0.5])
    damaged = [counts[0], (0, 0), *counts[2:]]
    now = one.state(EPOCHS, damaged)
    assert (now.verdict, now.point, now.more) == ("unfinished", 1, 32)
    assert run(one, [0.0, 0.1, 0.3, 0.5], counts=damaged)[1] == counts


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(0, 30))
def test_a_search_that_is_cut_off_anywhere_goes_on_to_the_same_counts(rates, steps):
    one = rule(cap=500, early=100, budget=1000)
    whole = run(one, rates)
    counts = [(0, 0)] * 4
    for _ in range(steps):
        now = one.state(EPOCHS, counts)
        if not now.more:
            break
        total = counts[now.point][1] + now.more
        counts[now.point] = (round(rates[now.point] * total), total)
    assert run(one, rates, counts=counts) == whole


def test_the_last_point_has_half_of_the_allowed_error():
    one, counts = rule(points=20), (477, 500)
    assert one.point(counts, last=True) == "at least"
    assert one.point(counts, last=False) == "undecided"


@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
def test_sampling_costs_no_more_than_its_share_of_the_training(share):
    one = StoppingRule.of(0.9, 0.004, 4, 10_000, affordable=share * 100_000 / 12)
    _, counts = run(one, [0.9, 0.9, 0.9, 0.9])
    sampled = sum(total for _, total in counts)
    assert sampled * 12 <= share * 100_000 * 1.25 + 4 * 32 * 12 + 8 * 32 * 12


def counts_of(*rates, total=1000):
    return [(round(rate * total), total) for rate in rates]


def test_a_flat_curve_far_below_the_target_rate_is_hopeless_and_a_rising_one_is_not():
    futility = FutilityRule()
    assert futility.is_hopeless(EPOCHS[:3], counts_of(0.1, 0.12, 0.13), 800, 0.9)
    assert not futility.is_hopeless(EPOCHS[:3], counts_of(0.1, 0.35, 0.7), 800, 0.9)


def test_nothing_is_given_up_early_at_the_end_or_where_few_images_leave_it_open():
    futility, flat = FutilityRule(), counts_of(0.1, 0.12, 0.13)
    assert not futility.is_hopeless(EPOCHS[:3], flat, 1600, 0.9)  # a quarter of the epochs
    assert not futility.is_hopeless(EPOCHS[:3], flat, 400, 0.9)  # the end: the verdict is near anyway
    assert not futility.is_hopeless(EPOCHS[:3], [(3, 4), (3, 4), (3, 4)], 800, 0.9)


def test_a_hopeless_training_counts_as_not_memorized_and_is_not_sampled_on():
    now, counts = run(rule(futility=FutilityRule()), [0.1, 0.12, 0.13, 0.13])
    assert (now.verdict, now.stopped) == ("not memorized", "hopeless")
    assert counts[3] == (0, 0)


def test_the_rate_to_expect_at_the_end_is_the_highest_seen_once_training_has_ended():
    assert projected_rate(EPOCHS, counts_of(0.2, 0.9, 0.8, 0.7), 800) == pytest.approx(0.9, abs=1e-3)


def test_a_curve_that_still_rises_is_carried_on_and_a_flat_one_is_not():
    rising = projected_rate(EPOCHS[:3], counts_of(0.2, 0.7, 0.93), 800)
    flat = projected_rate(EPOCHS[:3], counts_of(0.92, 0.93, 0.93), 800)
    assert 0.96 < rising < 0.98
    assert flat == pytest.approx(0.93, abs=1e-3)
