import math

import pytest

from diffmem.studies.records import EmmRecord
from diffmem.studies.search.choice import Outcome, Replay, SizeRule
from diffmem.studies.search.interval import emm_of_seed, emm_of_seeds

RULE = SizeRule(16, 512)


def estimated(value, low, high):
    return EmmRecord(status="estimated", value=value, low=low, high=high)


def replayed(status="estimated", below=None, above=None, note="", **outcomes):
    found = {int(size[1:]): one for size, one in outcomes.items()}
    return Replay(status=status, below=below, above=above, outcomes=found, note=note)


def test_the_interval_of_a_search_is_its_bracket_and_the_value_lies_inside():
    emm = emm_of_seed(
        replayed(below=100, above=120, n100=Outcome("memorized", 0.93), n120=Outcome("not memorized", 0.85)),
        RULE,
    )
    assert (emm.status, emm.low, emm.high, emm.bracket) == ("estimated", 100, 120, (100, 120))
    assert 100 < emm.value < 120
    assert emm.epsilon == pytest.approx(0.1)


def test_a_side_that_is_not_certain_reaches_to_the_end_of_the_sizes_and_says_so():
    emm = emm_of_seed(
        replayed(above=40, n16=Outcome("undecided", 0.9), n40=Outcome("not memorized", 0.5)), RULE
    )
    assert (emm.low, emm.high) == (16, 40)
    assert any("below the smallest" in note for note in emm.notes)


def test_answers_without_a_number_have_none():
    for status in ("above largest", "below smallest"):
        emm = emm_of_seed(replayed(status, n16=Outcome("memorized", 0.95)), RULE)
        assert (emm.status, emm.value, emm.low, emm.high) == (status, None, None, None)


def test_contradicting_verdicts_span_both_and_are_explained():
    emm = emm_of_seed(replayed("not monotone", below=50, n50=Outcome("memorized", 0.95)), RULE)
    assert (emm.status, emm.low, emm.high) == ("not monotone", 50, 512)
    assert any("does not fall" in note for note in emm.notes)


def test_one_seed_says_that_runs_may_vary():
    emm = emm_of_seeds({0: estimated(110, 100, 120)}, RULE)
    assert (emm.value, emm.low, emm.high) == (110, 100, 120)
    assert any("One run per size" in note for note in emm.notes)


def test_several_seeds_give_students_t_in_the_logarithm_widened_by_the_brackets():
    seeds = {0: estimated(100, 95, 105), 1: estimated(110, 100, 120), 2: estimated(121, 110, 130)}
    emm = emm_of_seeds(seeds, RULE)
    assert emm.value == pytest.approx(110, rel=1e-6)
    spread = 4.302653 * math.log(1.1) / math.sqrt(3)  # t of 2 degrees of freedom at 97.5%
    assert emm.low == pytest.approx((95 * 100 * 110) ** (1 / 3) * math.exp(-spread), rel=1e-5)
    assert emm.high == pytest.approx((105 * 120 * 130) ** (1 / 3) * math.exp(spread), rel=1e-5)
    assert any("more seeds" in note for note in emm.notes)


def test_seeds_that_agree_have_the_width_of_their_brackets():
    emm = emm_of_seeds({seed: estimated(110, 100, 120) for seed in range(3)}, RULE)
    assert (emm.low, emm.high) == (pytest.approx(100), pytest.approx(120))


def test_seeds_beyond_the_sizes_enter_as_the_end_and_are_told():
    emm = emm_of_seeds({0: estimated(500, 480, 510), 1: EmmRecord(status="above largest")}, RULE)
    assert emm.status == "estimated"
    assert any("above the largest" in note for note in emm.notes)
    both = emm_of_seeds({seed: EmmRecord(status="above largest") for seed in range(2)}, RULE)
    assert both.status == "above largest"


def test_a_seed_that_still_goes_on_leaves_the_level_unfinished():
    emm = emm_of_seeds({0: estimated(110, 100, 120), 1: EmmRecord(status="unfinished")}, RULE)
    assert emm.status == "unfinished"
    assert emm_of_seeds({}, RULE).status == "no runs"


def test_rates_that_certainly_rise_are_told_where_the_crossing_is_still_one():
    emm = emm_of_seed(
        replayed(
            below=100, above=120, n100=Outcome("memorized", 0.95, 0.91, 1.0), n120=Outcome("not memorized", 0.3, 0.2, 0.4),
            n200=Outcome("not memorized", 0.6, 0.5, 0.7),
        ),
        RULE,
    )  # fmt: skip
    assert emm.status == "estimated"
    assert any("N = 200 than at N = 120" in note for note in emm.notes)
