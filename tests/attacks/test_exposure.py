"""Exposure of canaries, for scores, samples and denoisers whose answer is known."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from diffmem.attacks.exposure import (
    ExposureRecord,
    exposure_of_model,
    exposure_of_samples,
    exposures,
    rank_sum_p_value,
)
from diffmem.data import ImageSet, hold_out, open_images, plant_canaries
from diffmem.errors import UserError
from diffmem.optimum.optimum import Optimum


def planted(count=8, repeats=2, labels=True, seed=0, size=120):
    images = hold_out(open_images("digits"), size, 1)[1]
    if not labels:
        images = images.with_labels(None, None, "none")
    return plant_canaries(images, count, repeats, seed)


def image_set(pixels):
    return ImageSet(np.ascontiguousarray(pixels), None, tuple(map(str, range(len(pixels)))))


def fresh(count=50, seed=3):
    return image_set(np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8))


def test_exposure_is_the_rank_among_the_control_scores_in_bits():
    control = np.array([1.0, 2.0, 3.0])
    found = exposures(np.array([4.0, 2.5, 0.0, 3.0]), control)
    # Ranks 1, 2, 4 and, behind the control score that it ties with, 2.
    np.testing.assert_allclose(found, [2.0, 1.0, 0.0, 1.0])


def brute_force(planted, control):
    everything = np.concatenate([planted, control])

    def pairs(members):
        rest = np.delete(everything, members)
        ours = everything[list(members)][:, None]
        return (ours > rest).sum() + 0.5 * (ours == rest).sum()

    observed = pairs(tuple(range(len(planted))))
    sums = [pairs(members) for members in combinations(range(len(everything)), len(planted))]
    return np.mean([each >= observed for each in sums])


@pytest.mark.parametrize("levels", [1000, 3, 1])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_p_value_is_the_share_of_draws_with_as_high_ranks(count, levels):
    rng = np.random.default_rng(count + levels)
    for _ in range(5):
        ours, others = rng.integers(levels, size=(2, count)).astype(float)
        assert rank_sum_p_value(ours, others) == pytest.approx(brute_force(ours, others), rel=1e-12)


def test_the_exact_p_value_is_scipys_and_meets_the_approximation_at_its_end():
    rng = np.random.default_rng(0)
    ours, others = rng.normal(0.4, 1, 40), rng.normal(0, 1, 40)
    exact = mannwhitneyu(ours, others, alternative="greater", method="exact").pvalue
    assert rank_sum_p_value(ours, others) == pytest.approx(exact, rel=1e-10)
    ours, others = rng.normal(0.2, 1, 64), rng.normal(0, 1, 64)
    near = mannwhitneyu(ours, others, alternative="greater", method="asymptotic").pvalue
    assert rank_sum_p_value(ours, others) == pytest.approx(near, rel=0.05)
    ours, others = rng.normal(0.2, 1, 65), rng.normal(0, 1, 65)
    far = mannwhitneyu(ours, others, alternative="greater", method="asymptotic").pvalue
    assert rank_sum_p_value(ours, others) == far


def test_under_chance_p_values_are_uniform_and_the_mean_exposure_is_as_told():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(4000, 2, 6))
    p = np.array([rank_sum_p_value(*each) for each in scores])
    assert (p <= 0.05).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 4000)
    assert (p <= 0.05).mean() > 0.02
    means = np.array([exposures(*each).mean() for each in scores])
    chance = math.log2(7) - np.mean(np.log2(np.arange(1, 8)))
    assert abs(means.mean() - chance) < 4 * means.std() / math.sqrt(4000)
    _, canaries = planted(6)
    assert exposure_of_samples(fresh(), canaries).by_chance == pytest.approx(chance)


def test_samples_that_are_the_planted_canaries_expose_all_of_them():
    _, canaries = planted()
    found = exposure_of_samples(image_set(np.concatenate([canaries.planted, fresh().images])), canaries)
    assert found.finding == "exposed"
    assert found.exposures == [math.log2(9)] * 8
    assert found.mean == found.greatest == math.log2(9)
    assert found.p_value == found.smallest_p == 1 / math.comb(16, 8)
    assert found.auc.value == 1
    assert found.auc.low > 0.5
    assert (found.reproduced.planted.count, found.reproduced.control.count) == (8, 0)
    assert (found.reproduced.samples.count, found.reproduced.samples.total) == (8, 58)
    assert "Samples reproduce 8 of 8 planted and 0 of 8 control canaries." in found.sentence
    assert found.planted_scores == [0.0] * 8
    assert str(found.planted_scores[0]) == "0.0"


def test_noisy_copies_count_as_reproduced_and_each_canary_once():
    _, canaries = planted()
    rng = np.random.default_rng(0)
    copies = np.repeat(canaries.planted[:3], 5, axis=0)
    noisy = np.clip(np.rint(copies + rng.normal(0, 12, copies.shape)), 0, 255).astype(np.uint8)
    found = exposure_of_samples(image_set(np.concatenate([noisy, fresh().images])), canaries)
    assert (found.reproduced.planted.count, found.reproduced.samples.count) == (3, 15)
    assert found.reproduced.planted.total == 8


def test_samples_that_are_the_control_canaries_are_no_exposure_and_show_in_the_null():
    _, canaries = planted()
    found = exposure_of_samples(image_set(canaries.control), canaries)
    assert found.finding == "not shown"
    assert found.exposures == [0.0] * 8
    assert found.p_value == 1
    assert (found.reproduced.planted.count, found.reproduced.control.count) == (0, 8)


def test_samples_of_ordinary_images_reproduce_no_canary():
    made, canaries = planted()
    found = exposure_of_samples(image_set(made.images[:104]), canaries)
    assert found.reproduced.planted.count == found.reproduced.control.count == 0
    assert 0.02 < found.p_value < 0.98


@pytest.mark.parametrize(
    ("count", "finding", "smallest"),
    [(1, "cannot tell", 0.5), (2, "cannot tell", 1 / 6), (3, "exposed", 0.05)],
)
def test_too_few_canaries_cannot_tell_and_say_so(count, finding, smallest):
    _, canaries = planted(count)
    found = exposure_of_samples(image_set(canaries.planted), canaries)
    assert (found.finding, found.p_value) == (finding, pytest.approx(smallest))
    assert ("So few canaries cannot show memorization" in found.sentence) == (finding == "cannot tell")
    assert (found.auc is None) == (count == 1)


def test_the_optimum_of_the_training_set_exposes_every_planted_canary():
    made, canaries = planted()
    found = exposure_of_model(Optimum(made), canaries)
    assert found.finding == "exposed"
    assert found.mean == found.greatest
    assert found.reproduced is None
    assert found.training_fingerprint == made.fingerprint
    assert ExposureRecord.model_validate_json(found.model_dump_json()) == found


def test_the_optimum_of_other_images_exposes_none():
    _, canaries = planted()
    others = image_set(open_images("digits").images[:300])
    found = exposure_of_model(Optimum(others), canaries)
    assert found.finding == "not shown"
    assert found.auc.low < 0.5 < found.auc.high


class Recording:
    """A denoiser of classes that notes the labels it is asked with."""

    sigma_min, sigma_max, image_shape, device = 0.0, math.inf, (1, 8, 8), torch.device("cpu")

    def __init__(self, num_labels):
        self.num_labels, self.asked = num_labels, []

    def __call__(self, x, sigma, labels=None):
        self.asked.append(labels)
        return torch.zeros_like(x)


def test_a_model_of_classes_is_asked_with_the_labels_of_the_canaries():
    _, canaries = planted()
    with_classes, without = Recording(10), Recording(0)
    exposure_of_model(with_classes, canaries)
    wanted = [*canaries.planted_labels.tolist(), *canaries.control_labels.tolist()]
    assert with_classes.asked[0].tolist() == wanted
    exposure_of_model(without, canaries)
    assert without.asked[0] is None
    with pytest.raises(UserError, match="give the class of each image"):
        exposure_of_model(Recording(10), planted(labels=False)[1])


def test_the_same_seed_gives_the_same_record_and_progress_ends_at_one():
    made, canaries = planted(4)
    told = []
    first = exposure_of_model(
        Optimum(made), canaries, 3, lambda done, total, note="": told.append(done / total)
    )
    assert first == exposure_of_model(Optimum(made), canaries, 3)
    assert first.planted_scores != exposure_of_model(Optimum(made), canaries, 4).planted_scores
    assert told[-1] == 1
    samples, told = fresh(), []
    first = exposure_of_samples(samples, canaries, lambda done, total, note="": told.append(done / total))
    assert first == exposure_of_samples(samples, canaries)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)


def test_samples_of_another_shape_are_refused():
    _, canaries = planted()
    with pytest.raises(UserError, match=r"shape \(1, 4, 4\) and the canaries \(1, 8, 8\)"):
        exposure_of_samples(image_set(np.zeros((3, 1, 4, 4), np.uint8)), canaries)


def test_each_number_of_repeats_is_held_against_all_control_canaries():
    images = hold_out(open_images("digits"), 200, 1)[1]
    _, canaries = plant_canaries(images, 24, (1, 5, 25), 0)
    often = canaries.planted[canaries.levels >= 5]
    found = exposure_of_samples(image_set(np.concatenate([often, fresh().images])), canaries)
    assert [(one.repeats, one.canaries, one.exposed) for one in found.levels] == [
        (1, 8, False),
        (5, 8, True),
        (25, 8, True),
    ]
    assert [one.reproduced.count for one in found.levels] == [0, 8, 8]
    assert found.levels[1].mean == pytest.approx(math.log2(25))
    assert found.levels[1].p_value == pytest.approx(1 / math.comb(32, 8))
    assert found.sentence.endswith("The smallest number of repeats at which they are exposed is 5.")
    assert found.repeats == 25
    nothing = exposure_of_samples(fresh(), canaries)
    assert nothing.sentence.endswith("At no number of repeats are they exposed by themselves.")


def test_canaries_of_one_number_of_repeats_have_no_levels():
    assert exposure_of_samples(fresh(), planted()[1]).levels == []
