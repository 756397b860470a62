"""Areas and thresholds of scores whose truth is known."""

import numpy as np
import pytest
from parameters import few
from scipy.stats import norm

from diffmem.attacks.roc import area_under_curve, check_counts, images_needed, operating_point
from diffmem.errors import UserError
from diffmem.memorization import Rate


def normal_scores(rng, area, spread, members, nonmembers):
    """Scores of normal members and non-members of standard deviations 1 and `spread` with a given true area."""
    shift = norm.ppf(area) * np.hypot(1, spread)
    return rng.normal(shift, 1, members), rng.normal(0, spread, nonmembers)


def test_the_area_is_the_share_of_pairs_and_equal_scores_count_half():
    rng = np.random.default_rng(0)
    members, nonmembers = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    pairs = members[:, None] - nonmembers
    wanted = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert area_under_curve(members, nonmembers).value == pytest.approx(wanted, abs=1e-12)
    assert area_under_curve(nonmembers, members).value == pytest.approx(1 - wanted, abs=1e-12)


def test_the_area_and_its_interval_mirror_when_the_sides_are_exchanged():
    members, nonmembers = normal_scores(np.random.default_rng(1), 0.8, 2, 50, 90)
    one, other = area_under_curve(members, nonmembers), area_under_curve(nonmembers, members)
    assert (one.low, one.high) == pytest.approx((1 - other.high, 1 - other.low), abs=1e-9)
    assert one.low < one.value < one.high
    assert (one.members, one.nonmembers, one.method) == (50, 90, "delong")


def test_the_variance_is_that_of_all_pairs():
    # DeLong's variance by its definition, over pairs, instead of by ranks.
    members, nonmembers = normal_scores(np.random.default_rng(2), 0.7, 1, 60, 80)
    wins = (members[:, None] > nonmembers).astype(float)
    variance = wins.mean(1).var(ddof=1) / 60 + wins.mean(0).var(ddof=1) / 80
    found = area_under_curve(members, nonmembers)
    # Near the middle the interval of Clopper and Pearson is close to two standard errors to each side.
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * np.sqrt(variance), rel=0.06)


def test_scores_that_are_apart_still_leave_room_for_doubt():
    members, nonmembers = np.arange(100.0) + 1000, np.arange(400.0)
    found = area_under_curve(members, nonmembers)
    assert (found.value, found.high, found.method) == (1, 1, "pairs")
    assert found.low == pytest.approx(Rate(100, 100).low)
    found = area_under_curve(nonmembers, members)
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(Rate(0, 100).high)


def test_scores_that_are_all_equal_are_chance():
    found = area_under_curve(np.zeros(40), np.zeros(40))
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((Rate(20, 40).low, Rate(20, 40).high))


@pytest.mark.parametrize("spread", few([1, 3, 1 / 3], 1))
@pytest.mark.parametrize(("members", "nonmembers"), [(17, 17), (40, 200), (368, 368)])
def test_intervals_of_the_area_cover_the_truth(spread, members, nonmembers):
    draws = 400
    for area in (0.5, 0.7, 0.9, 0.99, 0.999):
        rng = np.random.default_rng([members, int(1000 * area)])
        covered = 0
        for _ in range(draws):
            found = area_under_curve(*normal_scores(rng, area, spread, members, nonmembers))
            covered += found.low <= area <= found.high
        assert Rate(covered, draws, 0.999).high >= 0.95, (area, covered)
        assert covered >= 0.91 * draws, (area, covered)


@pytest.mark.parametrize("fpr", [0.005, 0.01, 0.05, 0.1, 0.5])
def test_the_images_needed_are_the_fewest_of_which_none_shows_the_rate(fpr):
    half = images_needed(fpr) // 2
    assert Rate(0, half).high <= fpr < Rate(0, half - 1).high
    assert half >= 1 / fpr - 1  # the highest score that chooses the threshold


def test_one_percent_needs_736_of_each_kind():
    assert images_needed(0.01) == 736
    check_counts(736, 736, 0.01)
    for counts in ((735, 5000), (5000, 735)):
        with pytest.raises(
            UserError, match=r"735 .*needs 736 of each.*fewer than 368.*ask for 2% false positives"
        ):
            check_counts(*counts, 0.01)
        with pytest.raises(UserError, match="needs 736 of each"):
            operating_point(np.zeros(counts[0]), np.zeros(counts[1]), 0.01)


def test_too_few_for_any_usual_rate_are_told_so_without_advice_that_fails():
    with pytest.raises(UserError, match=r"Give more images\. Two were copies\.$"):
        check_counts(10, 10, 0.01, "Two were copies.")


@pytest.mark.parametrize("fpr", [0, -0.1, 0.51, 1, float("nan")])
def test_a_false_positive_rate_out_of_range_is_refused(fpr):
    with pytest.raises(UserError, match="above 0 and at most"):
        images_needed(fpr)


def test_members_that_are_apart_are_all_found_and_no_one_else():
    found = operating_point(np.arange(736.0) + 10_000, np.arange(736.0))
    assert (found.found.count, found.found.total) == (368, 368)
    assert found.false.total == 368
    assert found.threshold < 736


def test_the_direction_is_fixed_so_members_with_lower_scores_are_not_found():
    found = operating_point(np.arange(736.0) - 10_000, np.arange(736.0))
    assert found.found.count == 0
    assert area_under_curve(np.arange(736.0) - 10_000, np.arange(736.0)).value == 0


def test_the_halves_that_choose_and_judge_are_apart_and_every_image_is_used():
    # The scores that choose are below the threshold but for k - 1, whatever the others are.
    scores = np.random.default_rng(3).permutation(801).astype(float)
    found = operating_point(scores[:736], scores, 0.01, seed=4)
    again = operating_point(scores[:736], scores, 0.01, seed=4)
    other = operating_point(scores[:736], scores, 0.01, seed=5)
    assert found == again
    assert found.threshold != other.threshold
    assert found.false.total == 400
    above = int((scores > found.threshold).sum())
    assert (
        above - found.false.count == 3
    )  # k = floor(0.01 * 402) = 4: three of the choosing half are above it


def test_equal_scores_are_never_called_members():
    found = operating_point(np.zeros(80), np.zeros(80), 0.1)
    assert (found.found.count, found.false.count) == (0, 0)


def test_the_expected_false_positive_rate_is_what_was_asked_for():
    rng = np.random.default_rng(6)
    draws, fpr = 400, 0.1
    counts = [
        operating_point(rng.normal(size=72), rng.normal(size=72), fpr, seed).false.count
        for seed in range(draws)
    ]
    # k / (n + 1) = 3 / 37 of 36 images; the variance is that of a beta-binomial count
    wanted, total = 3 / 37, 36
    variance = total * wanted * (1 - wanted) * (37 + total) / 38
    assert abs(np.mean(counts) - total * wanted) < 4 * np.sqrt(variance / draws)
    assert wanted <= fpr


def test_the_interval_of_the_true_positive_rate_covers_what_the_threshold_finds():
    rng = np.random.default_rng(7)
    draws, covered = 400, 0
    for seed in range(draws):
        point = operating_point(rng.normal(1.5, 1, 72), rng.normal(size=72), 0.1, seed)
        truth = norm.sf(point.threshold - 1.5)
        covered += point.found.low <= truth <= point.found.high
    assert covered >= 0.93 * draws


@pytest.mark.parametrize(
    "scores", [np.array([1.0]), np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.ones((2, 2))]
)
def test_scores_that_are_no_scores_are_refused(scores):
    with pytest.raises(UserError, match="scores of non-members must be"):
        area_under_curve(np.arange(5.0), scores)
    with pytest.raises(UserError, match="scores of members must be"):
        operating_point(scores, np.arange(800.0))


@pytest.mark.parametrize("confidence", [0, 1, 1.5])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(UserError, match="confidence"):
        area_under_curve(np.arange(5.0), np.arange(5.0), confidence)
