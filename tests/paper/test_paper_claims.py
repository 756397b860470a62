import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reports_study import make_grid_level

from diffmem.memorization.rates import Rate
from diffmem.paper.claims import judge
from diffmem.paper.experiment import ClaimRule
from diffmem.paper.records import ExperimentLevel
from diffmem.runs.records import Evaluation, RunRecord


def run(size, seed, percents, total=1000):
    evaluations = [
        Evaluation(
            epoch=i + 1,
            images_seen=(i + 1) * size,
            memorized=Rate(round(percent * total / 100), total),
            mean_nearest_distance=1.0,
            distinct_replicated=1,
        )
        for i, percent in enumerate(percents)
    ]
    return RunRecord(
        run_id=f"{size}-{seed}", size=size, seed=seed, epochs=2, epochs_trained=2, folder="", evaluations=evaluations, null=None,
        duplicates=0, images_trained=2 * size, training_seconds=1, sampling_seconds=1,
    )  # fmt: skip


def level(name, rates, total=1000):
    """A level with {(size, seed): R_mem in percent, or the percents of its evaluation points}."""
    runs = [
        run(size, seed, percents if isinstance(percents, list) else [percents], total)
        for (size, seed), percents in rates.items()
    ]
    return make_grid_level(f"ours {name}", runs=runs, kind=ExperimentLevel, paper_name=name)


BLOCKS = [(20, 0), (20, 1), (40, 0), (40, 1)]


def levels(*columns):
    return [level(name, dict(zip(BLOCKS, values, strict=True))) for name, values in columns]


def test_a_difference_in_every_pair_is_shown():
    found = judge(
        ClaimRule(text="t", rising=("a", "b")), levels(("a", [10, 20, 30, 40]), ("b", [30, 41, 49, 60]))
    )
    assert found.verdict == "shown"
    assert "+20.0 points" in found.numbers
    assert "4 pairs" in found.numbers


def test_numbers_name_the_levels_as_they_were_run_and_the_seed_of_a_rate():
    pair = levels(("a", [10, 20, 30, 40]), ("b", [30, 41, 49, 60]))
    for rule in (ClaimRule(text="t", rising=("a", "b")), ClaimRule(text="t", same=("a", "b"))):
        assert "from ours a to ours b" in judge(rule, pair).numbers
    least = judge(ClaimRule(text="t", at_least={"a": 99.9}), [level("a", {(20, 3): 100})])
    assert least.numbers.startswith("ours a, 20 images, seed 3: 100.0% [")


def test_the_same_difference_the_other_way_is_opposite():
    found = judge(
        ClaimRule(text="t", rising=("b", "a")), levels(("a", [10, 20, 30, 40]), ("b", [30, 41, 49, 60]))
    )
    assert found.verdict == "opposite"


def test_a_finding_of_unknown_direction_is_shown_either_way():
    rule = ClaimRule(text="t", rising=("b", "a"), either_way=True)
    assert judge(rule, levels(("a", [10, 20, 30, 40]), ("b", [30, 41, 49, 60]))).verdict == "shown"
    assert judge(rule, levels(("a", [10, 20, 30, 40]), ("b", [30, 5, 50, 20]))).verdict == "cannot tell"


def test_differences_that_disagree_cannot_be_told():
    found = judge(
        ClaimRule(text="t", rising=("a", "b")), levels(("a", [10, 20, 30, 40]), ("b", [30, 5, 50, 20]))
    )
    assert found.verdict == "cannot tell"


def test_runs_are_paired_by_size_and_seed_and_others_do_not_count():
    a = level("a", {(20, 0): 10, (20, 1): 12, (99, 0): 100})
    b = level("b", {(20, 0): 50, (20, 1): 53, (77, 0): 0})
    found = judge(ClaimRule(text="t", rising=("a", "b")), [a, b])
    assert "+40.5 points" in found.numbers


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_pairs_have_no_interval_and_show_nothing(seeds):
    rule = ClaimRule(text="t", rising=("a", "b"))
    low, high = [0, 1], [90, 20]  # of two pairs the t interval would read [-389, +498]
    a, b = (
        level(name, {(20, seed): rates[seed] for seed in range(seeds)})
        for name, rates in (("a", low), ("b", high))
    )
    found = judge(rule, [a, b])
    assert found.verdict == "cannot tell"
    assert "not enough to tell" in found.numbers
    assert "[" not in found.numbers


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=5))
def test_an_interval_stays_within_what_a_difference_of_rates_can_be(pairs):
    a, b = (
        level(name, {(20, seed): pair[at] for seed, pair in enumerate(pairs)}) for at, name in enumerate("ab")
    )
    low, high = map(
        float,
        re.findall(
            r"\[([-+.\d]+), ([-+.\d]+)\]", judge(ClaimRule(text="t", rising=("a", "b")), [a, b]).numbers
        )[0],
    )
    mean = np.mean([high - low for low, high in pairs])
    assert -100 <= low <= round(mean, 1) <= high <= 100


def test_the_interval_of_three_pairs_is_that_of_student():
    # Differences 10, 20, 30: mean 20, standard error 10 / sqrt(3), t(0.975; 2) = 4.3027.
    a, b = (
        level("a", {(20, 0): 10, (20, 1): 10, (20, 2): 10}),
        level("b", {(20, 0): 20, (20, 1): 30, (20, 2): 40}),
    )
    assert "+20.0 points [-4.8, +44.8]" in judge(ClaimRule(text="t", rising=("a", "b")), [a, b]).numbers


def test_pairs_that_agree_entirely_are_as_uncertain_as_their_samples():
    rule = ClaimRule(text="t", rising=("a", "b"))
    found = judge(rule, levels(("a", [0] * 4), ("b", [100] * 4)))
    # Each rate is 0 or 1,000 of 1,000: a variance of p (1 - p) / 1,000 with p = 1 / 1,002; t of 3 degrees of freedom is 3.182.
    half = 3.182 * 100 * np.sqrt(2 * (1 / 1002) * (1001 / 1002) / 1000) / np.sqrt(4)
    assert f"[{100 - half:+.1f}, +100.0]" in found.numbers
    assert 100 - half < 99.8
    alike = judge(rule, levels(("a", [50] * 4), ("b", [52] * 4)))
    assert alike.verdict == "cannot tell"  # 500 and 520 of 1,000, four times: the pairs agree by chance


def test_a_chain_is_judged_by_its_trend():
    chain = levels(
        ("a", [10, 11, 12, 13]), ("b", [40, 42, 41, 43]), ("c", [30, 31, 33, 32]), ("d", [60, 63, 61, 62])
    )
    assert judge(ClaimRule(text="t", rising=("a", "b", "c", "d")), chain).verdict == "shown"


def test_same_needs_the_whole_interval_within_the_margin():
    rule = ClaimRule(text="t", same=("a", "b"), margin=5)
    assert judge(rule, levels(("a", [50, 60, 70, 80]), ("b", [51, 60, 69, 81]))).verdict == "shown"
    assert judge(rule, levels(("a", [50, 60, 70, 80]), ("b", [70, 40, 75, 71]))).verdict == "cannot tell"
    assert judge(rule, levels(("a", [10, 11, 12, 13]), ("b", [40, 42, 41, 43]))).verdict == "opposite"


def test_memorization_falls_with_the_size_and_rises_with_the_epochs():
    one = [
        level(
            "a",
            {
                (size, seed): [12 - size / 5 + seed, 100 - size + seed]
                for size in (20, 40)
                for seed in range(3)
            },
        )
    ]
    assert judge(ClaimRule(text="t", along="sizes"), one).verdict == "shown"
    assert judge(ClaimRule(text="t", along="epochs"), one).verdict == "shown"
    single = [level("a", {(20, seed): [80, 10 + seed] for seed in range(3)})]
    assert judge(ClaimRule(text="t", along="epochs"), single).verdict == "opposite"


@pytest.mark.parametrize(("percent", "verdict"), [(100, "shown"), (99.8, "cannot tell"), (90, "opposite")])
def test_a_level_that_must_reach_a_rate_is_judged_by_its_interval(percent, verdict):
    found = judge(ClaimRule(text="t", at_least={"a": 99.9}), [level("a", {(20, 0): percent})])
    assert found.verdict == verdict


@pytest.mark.parametrize(
    "rule",
    [
        ClaimRule(text="t", rising=("x", "y")),
        ClaimRule(text="t", same=("a", "y")),
        ClaimRule(text="t", along="sizes"),
        ClaimRule(text="t", along="epochs"),
        ClaimRule(text="t", at_least={"y": 90}),
    ],
)
def test_what_was_not_run_is_not_judged(rule):
    assert judge(rule, [level("a", {(20, 0): 50})]) is None


@pytest.mark.parametrize("rates", [[0, 0, 1, 2], [99, 100, 98, 100]])
def test_rates_at_the_end_of_the_scale_are_not_called_the_same(rates):
    found = judge(ClaimRule(text="t", same=("a", "b")), levels(("a", rates), ("b", rates)))
    assert found.verdict == "cannot tell"
    assert "no room" in found.numbers
