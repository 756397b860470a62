from __future__ import annotations

import numpy as np
import plausibility_tools as tools
import pytest
from parameters import few

from diffmem.data import open_images
from diffmem.memorization.plausibility import check_samples
from diffmem.memorization.plausibility.noise import NoiseGauges

TRAINING, HELDOUT, FRESH = tools.digits()
SCENES, MORE_SCENES = tools.scenes(250, 0), tools.scenes(200, 1)


def chequered(images: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(images.shape[2:])
    return tools.bytes_of(images + 80.0 * (-1.0) ** (rows + columns))


def peppered(images: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(4).random(images.shape)
    return np.where(random < 0.25, 0, np.where(random > 0.75, 255, images)).astype(np.uint8)


NOISE = {
    "uniform": tools.white_noise,
    "of 10 grey levels": lambda images: tools.noised(np.full_like(images, 128), 10),
    "of 70 grey levels": lambda images: tools.noised(np.full_like(images, 128), 70),
    "black and white": lambda images: tools.white_noise(images) // 128 * 255,
    "salt and pepper": peppered,
    "half image, half noise": lambda images: tools.bytes_of(
        (images + tools.white_noise(images).astype(float)) / 2
    ),
    "on the mean image": lambda images: tools.bytes_of(
        images.mean(axis=0) + np.random.default_rng(5).normal(0, 60, images.shape)
    ),
    "a chequerboard": chequered,
}


@pytest.mark.parametrize("change", NOISE.values(), ids=NOISE)
def test_noise_in_the_place_of_digits_is_named(change):
    for heldout in (HELDOUT, None):
        found = check_samples(change(FRESH), TRAINING, heldout).record
        assert found.kind == "noise"
        assert "noise" in (found.problem or "")


@pytest.mark.parametrize("change", few(NOISE.values(), 3), ids=NOISE)
def test_noise_in_the_place_of_colour_images_is_named(change):
    assert check_samples(change(MORE_SCENES), SCENES).record.kind == "noise"


def test_grey_noise_and_noise_in_one_channel_are_named():
    grey = np.repeat(tools.white_noise(MORE_SCENES[:, :1]), 3, axis=1)
    one = MORE_SCENES.copy()
    one[:, 0] = tools.white_noise(one[:, 0])
    for samples in (grey, one):
        assert check_samples(samples, SCENES).record.kind == "noise"


def test_noise_of_blocks_is_named():
    blocks = tools.white_noise(np.empty((300, 3, 8, 8))).repeat(4, axis=2).repeat(4, axis=3)
    assert check_samples(blocks, SCENES).record.problem is not None


@pytest.mark.parametrize("size", [10, 50, 250])
def test_white_noise_is_told_from_few_training_images(size):
    assert check_samples(tools.white_noise(FRESH), TRAINING[:size]).record.kind == "noise"


@pytest.mark.cifar
@pytest.mark.parametrize("change", few(NOISE.values(), 2), ids=NOISE)
def test_noise_in_the_place_of_photographs_is_named(change, cifar_archive):
    training = open_images(cifar_archive).images
    fresh = open_images(cifar_archive, "test").images
    assert check_samples(change(fresh), training).record.kind == "noise"


def test_some_noise_among_images_is_a_note():
    samples = np.concatenate([MORE_SCENES[:200], tools.white_noise(MORE_SCENES[:60])])
    found = check_samples(samples, SCENES).record
    assert found.kind == "plausible"
    assert found.notes == ["About 23% of the samples are mostly noise."]


def test_the_share_of_noise_is_0_for_fresh_images_and_1_for_white_noise():
    gauges = NoiseGauges.fit(SCENES)
    assert np.median(gauges.patches.shares(MORE_SCENES)) == pytest.approx(0, abs=0.03)
    assert np.median(gauges.patches.shares(tools.white_noise(MORE_SCENES))) == pytest.approx(1, abs=0.03)


def test_the_share_of_noise_does_not_depend_on_contrast():
    gauges = NoiseGauges.fit(TRAINING)
    plain, faint = (gauges.patches.shares(images) for images in (FRESH, tools.contrast(FRESH, 0.5)))
    np.testing.assert_allclose(plain, faint, atol=0.02)


def test_training_images_that_are_noise_leave_no_gauge_that_tells():
    noise = tools.white_noise(np.empty((400, 1, 8, 8)))
    assert not NoiseGauges.fit(noise[:200]).noisy(noise[200:]).any()
