from __future__ import annotations

import numpy as np
import plausibility_tools as tools
import pytest

from diffmem.memorization.plausibility import check_samples
from diffmem.memorization.plausibility.repeats import clusters, constant_images, near_constant, repeats

TRAINING, HELDOUT, FRESH = tools.digits()
SHAPE = (400, 1, 8, 8)


def flat(value: int) -> np.ndarray:
    return np.full(SHAPE, value, np.uint8)


def test_black_samples_are_named_and_are_no_trials():
    found = check_samples(flat(0), TRAINING, HELDOUT)
    assert found.record.kind == "constant"
    assert "400 of 400 samples are one and the same constant image (black)" in (found.record.problem or "")
    assert found.record.judged == 0
    assert not found.judged.any()


@pytest.mark.parametrize("value", [255, 128, 7])
def test_samples_of_one_colour_are_constant(value):
    assert check_samples(flat(value), TRAINING).record.kind == "constant"


def test_constant_samples_of_different_colours_are_constant():
    colours = np.random.default_rng(0).integers(0, 256, (400, 3, 1, 1)).astype(np.uint8)
    found = check_samples(np.broadcast_to(colours, (400, 3, 32, 32)), tools.scenes(200, 0)).record
    assert found.kind == "constant"
    assert found.constant == 400


@pytest.mark.parametrize("border", [0, 1, 2])
def test_samples_of_one_colour_but_for_a_level_or_a_border_are_constant(border):
    random = np.random.default_rng(1)
    samples = random.integers(10, 200, (400, 1, 1, 1)) + random.integers(-1, 2, SHAPE)
    if border:
        samples[:, :, :border] = samples[:, :, -border:] = 240
        samples[:, :, :, :border] = samples[:, :, :, -border:] = 240
    assert check_samples(samples.astype(np.uint8), TRAINING).record.kind == "constant"


def test_a_few_constant_samples_are_counted_apart_and_the_rest_is_judged():
    samples = np.concatenate([FRESH[:380], flat(0)[:20]])
    found = check_samples(samples, TRAINING)
    assert (found.record.kind, found.record.constant, found.record.judged) == ("plausible", 20, 380)
    assert found.record.notes == ["20 of 400 samples are constant: they are no trials."]
    np.testing.assert_array_equal(found.judged, [True] * 380 + [False] * 20)


def test_mostly_black_samples_cannot_be_judged_though_some_are_images():
    found = check_samples(np.concatenate([TRAINING[:20], flat(0)[:380]]), TRAINING).record
    assert (found.kind, found.judged) == ("constant", 20)
    assert "380 of 400" in (found.problem or "")


def test_a_training_set_of_half_blank_images_has_samples_that_are_half_blank():
    training = np.concatenate([TRAINING[:400], flat(0)])
    assert check_samples(np.concatenate([FRESH[:200], flat(0)[:220]]), training).record.kind == "plausible"
    assert check_samples(flat(0), training).record.kind == "constant"


@pytest.mark.parametrize("levels", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_few_images_over_and_over_are_repeated(number, levels):
    samples = FRESH[np.arange(400) % number].astype(int)
    samples = tools.bytes_of(samples + np.random.default_rng(2).integers(-levels, levels + 1, samples.shape))
    found = check_samples(samples, TRAINING).record
    assert found.kind == "repeated"
    assert found.most_repeated >= (400 // number if levels == 0 else 1)


def test_a_diverse_set_with_a_few_repeats_gets_a_note():
    found = check_samples(np.concatenate([FRESH[:300], FRESH[:30]]), TRAINING)
    assert (found.record.kind, found.record.repeats, found.record.judged) == ("plausible", 30, 300)
    assert not found.judged[300:].any()
    assert found.record.notes == [
        "30 of 330 samples are exact repeats of earlier ones; each image counts once."
    ]


def test_one_training_image_made_again_and_again_is_what_a_model_of_one_image_makes():
    assert check_samples(np.repeat(TRAINING[:1], 64, 0), TRAINING[:1]).record.kind == "plausible"


def test_constant_means_constant_in_each_channel():
    images = np.zeros((3, 3, 4, 4), np.uint8)
    images[1, 2] = 9
    images[2, 0, 1, 1] = 1
    np.testing.assert_array_equal(constant_images(images), [True, True, False])
    np.testing.assert_array_equal(near_constant(images), [True, True, True])


def test_repeats_are_counted_among_the_chosen_images_only():
    images = FRESH[[0, 1, 0, 0, 2]]
    repeated, most = repeats(images, np.array([False, True, True, True, True]))
    np.testing.assert_array_equal(repeated, [False, False, False, True, False])
    assert most == 2


def test_images_that_differ_by_a_level_are_one_and_others_are_not():
    near = tools.bytes_of(
        np.repeat(FRESH[:1], 10, 0) + np.random.default_rng(3).integers(-1, 2, (10, 1, 8, 8))
    )
    found = clusters(np.concatenate([near, FRESH[1:11]]))
    assert (found.distinct, found.largest, found.images) == (11, 10, 20)
