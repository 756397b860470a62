import numpy as np
import pytest

from diffmem.errors import UserError
from diffmem.memorization import RatioRule, RepeatAwareRule, nearest_neighbours

RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 256, (80, 1, 6, 6), dtype=np.uint8)


def noisy(images, size, seed=1):
    rng = np.random.default_rng(seed)
    return (images + rng.normal(0, size, images.shape)).clip(0, 255).astype(np.uint8)


def test_a_copy_of_an_image_with_a_near_copy_in_the_training_set_is_found_though_its_ratio_is_near_one():
    training = np.concatenate([TRAINING, noisy(TRAINING[:10], 3)])
    samples = noisy(TRAINING[:20], 3, seed=2)
    found = nearest_neighbours(samples, training, 50)
    assert RatioRule()(found).tolist() == [False] * 10 + [True] * 10
    rule = RepeatAwareRule(training)
    assert rule(found).all()
    assert (rule.ratio(found) < 1 / 3).all()


def test_without_near_copies_it_is_the_ratio_rule():
    samples = np.concatenate([noisy(TRAINING[:30], 60), RNG.integers(0, 256, (50, 1, 6, 6), dtype=np.uint8)])
    found = nearest_neighbours(samples, TRAINING, 50)
    np.testing.assert_array_equal(RepeatAwareRule(TRAINING)(found), RatioRule()(found))
    np.testing.assert_allclose(RepeatAwareRule(TRAINING).ratio(found), RatioRule().ratio(found))


def test_all_that_the_ratio_rule_flags_is_flagged():
    training = np.concatenate([TRAINING, noisy(TRAINING[:40], 10)])
    found = nearest_neighbours(noisy(training, 8, seed=3), training, 50)
    assert not (RatioRule()(found) & ~RepeatAwareRule(training)(found)).any()


def test_a_fresh_image_between_two_near_copies_of_nothing_is_not_flagged():
    fresh = RNG.integers(0, 256, (200, 1, 6, 6), dtype=np.uint8)
    training = np.concatenate([TRAINING, noisy(TRAINING, 3)])
    assert not RepeatAwareRule(training)(nearest_neighbours(fresh, training, 50)).any()


def test_beside_a_given_picture_its_near_copies_are_passed_over_whether_or_not_it_is_in_the_set():
    training = np.concatenate([noisy(TRAINING[:1], 3), TRAINING[1:]])
    sample = noisy(TRAINING[:1], 5)
    found = nearest_neighbours(sample, training, 50)
    gaps = np.sort(np.sqrt(((training.astype(float) - sample) ** 2).sum((1, 2, 3))))
    rule = RepeatAwareRule(training)
    for pictures in (TRAINING[:1], training[:1]):
        assert rule.beyond(found, pictures, np.array([0]))[0] == pytest.approx(gaps[1])
    assert rule.beyond(found, TRAINING[1:2], np.array([0]))[0] == pytest.approx(gaps[0])


def test_distances_do_not_overflow_where_black_meets_white():
    training = np.stack([np.full((3, 64, 64), value, np.uint8) for value in (0, 255, 128)])
    found = nearest_neighbours(training[:1], training, 3)
    rule = RepeatAwareRule(training, count=3)
    apart = rule._apart(training, np.array([0]), np.array([1]))
    assert apart[0] == pytest.approx(255 * np.sqrt(3 * 64 * 64))
    assert rule.ratio(found)[0] == 0


@pytest.mark.parametrize(("settings", "words"), [({"threshold": 0}, "not in"), ({"count": 1}, "2 or more")])
def test_constants_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        RepeatAwareRule(TRAINING, **settings)


def test_too_few_neighbours_are_refused_with_the_number_to_search_for():
    with pytest.raises(UserError, match="k = 50"):
        RepeatAwareRule(TRAINING)(nearest_neighbours(TRAINING[:2], TRAINING, 10))
