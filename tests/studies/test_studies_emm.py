import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import amount, few

from diffmem.studies import emm
from diffmem.studies.emm import ONE_RUN_PER_SIZE, crossing, estimate_emm, non_increasing, so_far
from diffmem.studies.records import EmmRecord

# Rates in percent of 10,000 samples, read from the plots of Gu et al. (TMLR 2025), and their crossing of 90% in log N.
PUBLISHED = {
    "figure 2a, 32x32": ({500: 99.2, 1000: 92.1, 2000: 61.0, 4000: 17.1}, 1048),
    "figure 2a, 16x16": ({1000: 100.0, 2000: 99.8, 4000: 94.7, 8000: 60.2, 16000: 11.0}, 4396),
    "figure 2a, 8x8": ({1000: 100.0, 2000: 99.8, 4000: 97.1, 8000: 89.4, 16000: 63.9}, 7579),
    "figure 5, unconditional": ({1000: 92.1, 2000: 61.0, 3000: 34.7, 4000: 17.2, 5000: 9.0}, 1048),
    "figure 5, true labels": ({1000: 96.7, 2000: 79.4, 3000: 55.6, 4000: 37.6, 5000: 23.0}, 1308),
    "figure 5, random labels": ({1000: 96.3, 2000: 79.9, 3000: 57.3, 4000: 39.1, 5000: 23.5}, 1305),
}


def one_run_each(rates, total):
    return {size: [(round(rate * total), total)] for size, rate in rates.items()}


@pytest.fixture
def fewer_replicates(monkeypatch):
    monkeypatch.setattr(emm, "_REPLICATES", 300)


@pytest.mark.parametrize("published", PUBLISHED)
def test_the_published_rates_give_the_published_emm(fewer_replicates, published):
    percent, expected = PUBLISHED[published]
    found = estimate_emm({size: [(round(100 * rate), 10_000)] for size, rate in percent.items()})
    assert found.status == "estimated"
    assert found.value == pytest.approx(expected, rel=0.01)
    assert found.low < found.value < found.high
    assert found.high / found.low < 1.1  # 10,000 samples leave little doubt


@given(
    log_emm=st.floats(math.log(20), math.log(500)), slope=st.floats(0.02, 0.09), level=st.floats(0.45, 0.55)
)
def test_a_rate_linear_in_log_n_crosses_where_the_line_says(log_emm, slope, level):
    sizes = [10, 40, 100, 1000]
    rates = np.array([level - slope * (math.log(size) - log_emm) for size in sizes])
    assert crossing(sizes, rates, level) == pytest.approx(math.exp(log_emm), rel=1e-6)


def test_the_crossing_of_two_points_is_their_geometric_mean_when_the_level_is_halfway():
    assert crossing([100, 400], np.array([1.0, 0.8]), 0.9) == pytest.approx(200)


def test_the_crossing_is_at_a_size_whose_rate_is_the_level():
    assert crossing([10, 20, 40], np.array([1.0, 0.9, 0.2]), 0.9) == pytest.approx(20)


def test_rates_that_rise_are_averaged_by_weight_before_they_are_interpolated():
    # The rates 0.7 (100 samples) and 0.9 (300) pool to 0.85 at both sizes: the line from (10, 1) to (20, 0.85) counts.
    fit = non_increasing([1.0, 0.7, 0.9, 0.1], np.array([100.0, 100, 300, 100]))
    found = crossing([10, 20, 40, 80], fit, 0.9)
    assert found == pytest.approx(10 * 2 ** (0.1 / 0.15))


def test_a_curve_certainly_above_the_level_has_its_emm_above_the_largest_size():
    assert crossing([10, 20], np.array([1.0, 0.9]), 0.9) == math.inf
    found = estimate_emm({10: [(100, 100)], 20: [(99, 100)]})
    assert (found.status, found.value, found.low, found.high) == ("above largest", None, None, None)


def test_a_curve_certainly_below_the_level_has_its_emm_below_the_smallest_size():
    assert crossing([10, 20], np.array([0.89, 0.1]), 0.9) == 0
    found = estimate_emm({10: [(50, 100)], 20: [(10, 100)]})
    assert (found.status, found.value, found.low, found.high) == ("below smallest", None, None, None)


def test_an_emm_outside_the_sizes_that_is_not_certain_says_how_far_into_them_it_may_reach():
    # Clopper and Pearson: 89 of 100 is [81, 94]%, 92 of 100 is [85, 96]%, on both sides of 90%.
    below = estimate_emm({10: [(89, 100)], 20: [(10, 100)]})
    assert (below.status, below.value, below.low) == ("below smallest", None, None)
    assert 10 < below.high < 11
    above = estimate_emm({10: [(100, 100)], 20: [(92, 100)]})
    assert (above.status, above.value, above.high) == ("above largest", None, None)
    assert 10 < above.low < 20
    assert ONE_RUN_PER_SIZE in above.notes


def test_one_sample_does_not_tell_on_which_side_of_the_sizes_emm_is():
    below = estimate_emm({10: [(0, 1)]})  # [0, 97.5]%
    assert (below.status, below.high) == ("below smallest", 10)
    assert "The interval reaches above the largest size, 10." in below.notes


def test_a_single_size_tells_only_on_which_side_emm_lies():
    assert estimate_emm({10: [(100, 100)]}).status == "above largest"
    assert estimate_emm({10: [(0, 100)]}).status == "below smallest"


def test_without_runs_there_is_no_estimate():
    assert estimate_emm({}, epsilon=0.2).status == "no runs"
    assert estimate_emm({}, epsilon=0.2).epsilon == 0.2


def test_the_order_of_the_sizes_does_not_matter(fewer_replicates):
    counts = one_run_each({16: 1.0, 32: 0.97, 64: 0.7, 96: 0.4}, 200)
    assert estimate_emm(dict(reversed(counts.items()))) == estimate_emm(counts)


def test_the_same_counts_give_the_same_interval_and_another_seed_another(fewer_replicates):
    counts = one_run_each({16: 1.0, 32: 0.97, 64: 0.7}, 200)
    assert estimate_emm(counts, seed=1) == estimate_emm(counts, seed=1)
    assert estimate_emm(counts, seed=1).low != estimate_emm(counts, seed=2).low


def test_a_larger_epsilon_gives_a_larger_emm_and_the_bracket_around_it(fewer_replicates):
    counts = one_run_each({16: 1.0, 32: 0.96, 64: 0.7, 96: 0.4}, 1000)
    strict, loose = estimate_emm(counts, 0.1), estimate_emm(counts, 0.5)
    assert strict.bracket == (32, 64)
    assert loose.bracket == (64, 96)
    assert strict.value < loose.value


def test_the_method_names_the_confidence_of_the_interval(fewer_replicates):
    counts = one_run_each({16: 1.0, 32: 0.5}, 100)
    narrow, wide = estimate_emm(counts, confidence=0.5), estimate_emm(counts, confidence=0.95)
    assert "50% interval" in narrow.method
    assert "95% interval" in wide.method
    assert wide.low < narrow.low < narrow.high < wide.high


@settings(max_examples=30)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=6))
def test_the_interval_contains_the_estimate_and_stays_within_the_sizes(counts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emm, "_REPLICATES", 60)
        sizes = [10 * 2**i for i in range(len(counts))]
        found = estimate_emm({size: [(count, 50)] for size, count in zip(sizes, counts, strict=True)})
    if found.status == "estimated":
        assert sizes[0] <= found.low <= found.value <= found.high <= sizes[-1]
        assert found.bracket[0] <= found.value <= found.bracket[1]


def test_an_interval_that_leaves_the_sizes_says_so(fewer_replicates):
    low = estimate_emm(one_run_each({16: 0.92, 32: 0.1}, 50))
    assert low.low == 16
    assert "below the smallest size, 16" in " ".join(low.notes)
    high = estimate_emm(one_run_each({16: 1.0, 32: 0.88}, 50))
    assert high.high == 32
    assert "above the largest size, 32" in " ".join(high.notes)


def test_more_samples_give_a_narrower_interval(fewer_replicates):
    rates = {16: 1.0, 32: 0.96, 64: 0.7, 96: 0.4}
    widths = [
        (found := estimate_emm(one_run_each(rates, total))).high - found.low for total in (100, 1000, 10_000)
    ]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_runs_that_disagree_give_a_wider_interval_than_runs_that_agree(fewer_replicates):
    agreeing = {32: [(480, 500)] * 3, 64: [(350, 500)] * 3}
    disagreeing = {32: [(500, 500), (480, 500), (460, 500)], 64: [(450, 500), (350, 500), (250, 500)]}
    same, different = estimate_emm(agreeing), estimate_emm(disagreeing)
    assert same.value == pytest.approx(different.value)
    assert different.high - different.low > 2 * (same.high - same.low)


def test_only_an_estimate_of_single_runs_warns_that_variation_between_runs_is_not_covered(fewer_replicates):
    single = estimate_emm({32: [(480, 500)], 64: [(350, 500)]})
    double = estimate_emm({32: [(480, 500)] * 2, 64: [(350, 500)] * 2})
    assert "One run per size" in " ".join(single.notes)
    assert "One run per size" not in " ".join(double.notes)


def test_a_clear_rise_is_noted_and_a_rise_within_sampling_error_is_not(fewer_replicates):
    clear = estimate_emm(one_run_each({16: 1.0, 32: 0.5, 64: 0.8, 96: 0.1}, 200))
    within = estimate_emm(one_run_each({16: 1.0, 32: 0.6, 64: 0.62, 96: 0.1}, 200))
    assert "not monotone" in " ".join(clear.notes)
    assert "not monotone" not in " ".join(within.notes)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("sizes", "middle", "steepness"),
    few(
        [
            ((16, 32, 64, 96, 192), 80, 3),
            ((16, 32, 64, 96, 192), 60, 6),
            ((500, 1000, 2000, 4000), 2200, 2.7),
        ],
        1,
    ),
)
def test_the_interval_covers_the_true_emm_as_often_as_it_claims(monkeypatch, sizes, middle, steepness):
    # E[R_mem] is logistic in log N; what can be estimated is the crossing of its interpolation between the sizes.
    monkeypatch.setattr(emm, "_REPLICATES", 200)
    simulations, samples = amount(50, 150), 200
    rates = 1 / (1 + (np.array(sizes) / middle) ** steepness)
    truth = crossing(sizes, rates, 0.9)
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(simulations):
        counts = rng.binomial(samples, rates)
        found = estimate_emm(
            {size: [(int(count), samples)] for size, count in zip(sizes, counts, strict=True)}
        )
        covered += found.status == "estimated" and found.low <= truth <= found.high
    assert covered / simulations >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / simulations)


@pytest.mark.parametrize(
    ("known", "low", "high"),
    [
        (EmmRecord(status="estimated", value=40, low=30, high=50), 30, 50),
        (EmmRecord(status="above largest"), 64, None),
        (EmmRecord(status="below smallest"), None, 16),
        (EmmRecord(status="above largest", low=40), 40, None),
        (EmmRecord(status="below smallest", high=20), None, 20),
        (EmmRecord(status="not monotone", low=16, high=64), 16, 64),
    ],
)
def test_where_runs_are_missing_emm_has_no_value_but_the_ends_that_are_known(known, low, high):
    found = so_far(known, [16, 64])
    assert (found.status, found.value, found.low, found.high) == ("unfinished", None, low, high)
