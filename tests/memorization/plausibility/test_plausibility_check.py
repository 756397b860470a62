from __future__ import annotations

import numpy as np
import plausibility_tools as tools
import pytest
from parameters import few

from diffmem.data import open_images
from diffmem.errors import UserError
from diffmem.memorization.plausibility import check_samples

TRAINING, HELDOUT, FRESH = tools.digits()
SCENES, MORE_SCENES = tools.scenes(250, 0), tools.scenes(200, 1)

HONEST = {
    "as they are": lambda images: images,
    "blurred by 0.5 pixels": lambda images: tools.blurred(images, 0.5),
    "blurred by 1 pixel": lambda images: tools.blurred(images, 1),
    "blurred by 2 pixels": lambda images: tools.blurred(images, 2),
    "blurred by 3 pixels": lambda images: tools.blurred(images, 3),
    "contrast 0.3": lambda images: tools.contrast(images, 0.3),
    "contrast 0.6": lambda images: tools.contrast(images, 0.6),
    "noise of 4": lambda images: tools.noised(images, 4),
    "noise of 12": lambda images: tools.noised(images, 12),
    "brighter": lambda images: tools.bytes_of(images + 20.0),
    "darker": lambda images: tools.bytes_of(images - 20.0),
    "the brightest third": lambda images: images[np.argsort(images.mean(axis=(1, 2, 3)))[-200:]],
    "100 of them": lambda images: images[:100],
}


@pytest.mark.parametrize("change", few(HONEST.values(), 4), ids=HONEST)
@pytest.mark.parametrize("size", few([10, 50, 250, 800], 2))
def test_fresh_digits_and_those_of_a_poor_but_honest_model_are_judged(change, size):
    for heldout in (HELDOUT, None):
        found = check_samples(change(FRESH), TRAINING[:size], heldout).record
        assert (found.kind, found.problem, found.reading) == ("plausible", None, None)


@pytest.mark.parametrize("change", few(HONEST.values(), 3), ids=HONEST)
def test_colour_images_of_a_poor_but_honest_model_are_judged(change):
    found = check_samples(change(MORE_SCENES), SCENES).record
    assert (found.kind, found.problem, found.reading) == ("plausible", None, None)


@pytest.mark.cifar
@pytest.mark.parametrize("change", few(HONEST.values(), 3), ids=HONEST)
def test_photographs_of_a_poor_but_honest_model_are_judged(change, cifar_archive):
    training = open_images(cifar_archive).images
    fresh = open_images(cifar_archive, "test").images
    for size in (10, 100, 500):
        found = check_samples(change(fresh), training[:size]).record
        assert (found.kind, found.problem, found.reading) == ("plausible", None, None)


@pytest.mark.parametrize(
    "training",
    [
        tools.white_noise(np.empty((400, 1, 8, 8))),
        tools.white_noise(np.empty((400, 3, 16, 16))) // 128 * 255,
        (tools.scenes(400, 3, 16)[:, :1] > 110).astype(np.uint8) * 255,
        np.clip(tools.scenes(400, 4)[:, :1] // 16, 0, 15),
        np.where(tools.scenes(400, 5) > 150, tools.scenes(400, 5), 255).astype(np.uint8),
    ],
    ids=["white noise", "binary noise", "binary shapes", "16 grey levels", "shapes on white"],
)
def test_a_model_of_unusual_images_is_judged_by_them_and_not_by_what_photographs_are_like(training):
    found = check_samples(training[200:], training[:200]).record
    assert (found.kind, found.reading) == ("plausible", None)


def test_a_model_that_reproduces_its_few_training_images_is_judged_and_its_repeats_are_counted():
    found = check_samples(TRAINING[np.arange(400) % 10], TRAINING[:10]).record
    assert found.kind == "plausible"
    assert (found.judged, found.repeats, found.most_repeated) == (10, 390, 40)
    assert any("390 of 400 samples are exact repeats" in note for note in found.notes)


def test_larger_samples_of_the_same_scenes_are_no_sheets():
    assert check_samples(tools.scenes(200, 6, 64), SCENES).record.kind == "plausible"


def test_statistics_of_all_sets_are_reported():
    record = check_samples(FRESH, TRAINING, HELDOUT).record
    assert set(record.statistics) == {"training", "heldout", "samples"}
    of_samples = record.statistics["samples"]
    assert (of_samples.images, of_samples.height, of_samples.width, of_samples.channels) == (697, 8, 8, 1)
    assert (of_samples.minimum, of_samples.maximum, of_samples.grey_levels) == (0, 255, 17)
    assert of_samples.mean == pytest.approx(float(FRESH.mean()))


def test_one_seed_gives_one_result_and_nothing_is_written_to_the_arrays():
    for images in (kept := [FRESH.copy(), TRAINING.copy()]):
        images.setflags(write=False)
    assert check_samples(*kept).record == check_samples(*kept).record


@pytest.mark.parametrize("samples", [FRESH.astype(np.float32), FRESH[0], FRESH[:0]])
def test_what_is_no_set_of_images_is_refused(samples):
    with pytest.raises(UserError):
        check_samples(samples, TRAINING)


@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_a_handful_of_samples_and_of_training_images_is_checked_without_a_fault(number):
    assert check_samples(FRESH[:number], TRAINING[:number], HELDOUT[:1]).record.samples == number
    assert check_samples(MORE_SCENES[:number], TRAINING[:number]).record.samples == number
