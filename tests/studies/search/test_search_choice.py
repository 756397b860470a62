import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffmem.studies.search.choice import Outcome, SizeRule, bracketed, replay

LINE = math.log(9)


def rate_of(size, emm, slope=2.0):
    return 1 / (1 + math.exp(-LINE + slope * math.log2(size / emm)))


def oracle(emm, slope=2.0, unsure=0.0):
    """Verdicts of trainings whose R_mem crosses 90% at `emm`; within a factor of 1 + unsure they are undecided."""

    def outcome(size):
        verdict = "memorized" if size <= emm else "not memorized"
        if 1 / (1 + unsure) < size / emm < 1 + unsure:
            verdict = "undecided"
        return Outcome(verdict, rate_of(size, emm, slope))

    return outcome


emms = st.floats(16.5, 15_900)


@given(emms, st.floats(0.8, 4), st.one_of(st.none(), st.floats(16, 16_000)))
def test_a_search_ends_with_a_bracket_of_the_crossing_that_is_narrow_enough(emm, slope, start):
    rule = SizeRule(16, 16_000, start=start)
    found = replay(rule, oracle(emm, slope))
    assert found.status == "estimated"
    assert found.below <= emm <= found.above
    assert found.above / found.below <= rule.ratio or found.above - found.below == 1
    assert not found.note
    assert len(found.outcomes) <= 12
    assert all(16 <= size <= 16_000 for size in found.outcomes)


@given(emms, st.floats(0.01, 0.3), st.floats(0.8, 4))
@example(60.0, 0.296875, 3.375)  # once ended at 40 to 88, wider than it need be
def test_where_sizes_near_the_crossing_cannot_be_decided_the_bracket_still_holds_it(emm, unsure, slope):
    rule = SizeRule(16, 16_000)
    found = replay(rule, oracle(emm, slope, unsure))
    assert found.status == "estimated"
    assert (found.below or 16) <= emm <= (found.above or 16_000)
    if len(found.outcomes) < rule.most and found.above is not None and found.below is not None:
        assert (
            found.above / found.below <= max(rule.ratio, (1 + unsure) ** 2 * 1.3)
            or found.above - found.below <= 3
        )


@given(emms, st.integers(1, 6))
def test_a_search_that_is_interrupted_chooses_the_same_sizes(emm, known):
    whole = replay(SizeRule(16, 16_000), oracle(emm))
    first = list(whole.outcomes)[:known]
    partly = replay(SizeRule(16, 16_000), lambda size: oracle(emm)(size) if size in first else None)
    assert list(partly.outcomes) == first
    if known < len(whole.outcomes):
        assert partly.status == "unfinished"
        assert partly.waiting == list(whole.outcomes)[known]


def test_what_other_studies_trained_does_not_change_the_choice():
    asked = []

    def outcome(size):
        asked.append(size)
        return oracle(300)(size)

    found = replay(SizeRule(16, 16_000), outcome)
    assert asked == list(found.outcomes)


def test_even_the_largest_size_memorizing_is_an_answer():
    found = replay(SizeRule(16, 512), oracle(5000))
    assert found.status == "above largest"
    assert max(found.outcomes) == 512
    assert len(found.outcomes) <= 6


def test_even_the_smallest_size_not_memorizing_is_an_answer():
    found = replay(SizeRule(16, 512, start=400), oracle(3))
    assert found.status == "below smallest"
    assert min(found.outcomes) == 16
    assert len(found.outcomes) <= 5


def test_sizes_that_are_never_asked_for_do_not_matter():
    def outcome(size):
        return Outcome("not memorized", 0.7) if size < 40 else oracle(100)(size)

    assert replay(SizeRule(16, 512, start=90), outcome).status == "estimated"


def test_a_size_that_does_not_memorize_below_one_that_may_is_not_monotone():
    """50 cannot be decided; 30, beside it, certainly has a lower rate, and certainly does not memorize."""

    def outcome(size):
        if size > 45:
            return Outcome("undecided", 0.9, 0.88, 0.92)
        return Outcome("not memorized", 0.7, 0.6, 0.8)

    found = replay(SizeRule(16, 512, start=50), outcome)
    assert found.status == "not monotone"
    assert (found.below, found.above) == (None, None)
    assert min(found.outcomes) <= 45


def test_undecided_sizes_with_about_the_same_rates_contradict_nothing():
    def outcome(size):
        return (
            Outcome("undecided", 0.9, 0.87, 0.93) if size > 45 else Outcome("not memorized", 0.86, 0.82, 0.89)
        )

    assert replay(SizeRule(16, 512, start=50), outcome).status != "not monotone"


def test_a_good_start_needs_two_trainings():
    rule = SizeRule(16, 16_000, start=300 / math.sqrt(SizeRule(16, 512).ratio))
    assert len(replay(rule, oracle(300)).outcomes) == 2


def test_the_number_of_trainings_is_bounded():
    found = replay(
        SizeRule(2, 10**7, most=5), lambda size: Outcome("memorized" if size < 3000 else "undecided", 0.9)
    )
    assert len(found.outcomes) == 5
    assert "5 sizes" in found.note


def test_every_step_says_why():
    found = replay(SizeRule(16, 16_000), oracle(700))
    assert [size for size, _ in found.steps] == list(found.outcomes)
    assert all(why for _, why in found.steps)


def test_the_crossing_of_a_straight_line_is_found_exactly():
    outcomes = {size: oracle(300)(size) for size in (200, 500)}
    assert bracketed(outcomes, 0.9) == pytest.approx(300, rel=1e-6)


def test_rates_that_rise_by_chance_are_made_non_increasing_first():
    outcomes = {
        100: Outcome("undecided", 0.89),
        120: Outcome("undecided", 0.93),
        200: Outcome("not memorized", 0.7),
    }
    assert 120 < bracketed(outcomes, 0.9) < 200


def test_from_one_side_the_usual_slope_is_used():
    assert bracketed({100: Outcome("not memorized", rate_of(100, 50))}, 0.9) == pytest.approx(50, rel=1e-6)
