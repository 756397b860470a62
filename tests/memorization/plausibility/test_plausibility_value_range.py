from __future__ import annotations

import numpy as np
import plausibility_tools as tools
import pytest
from parameters import few

from diffmem.data import open_images
from diffmem.memorization.plausibility import check_samples
from diffmem.memorization.plausibility.value_range import readings

TRAINING, HELDOUT, FRESH = tools.digits()
SCENES, MORE_SCENES = tools.scenes(250, 0), tools.scenes(200, 1)

GREY = list(readings(1))
COLOUR = list(readings(3))
# These leave digits, of which most values are 0 or near 255, nearly as they were.
FAINT = "wrapped modulo 256"


@pytest.mark.parametrize("reading", GREY, ids=lambda reading: reading.title)
def test_a_wrong_value_range_of_digits_is_named_with_the_reading_that_fits(reading):
    if FAINT in reading.mistake:
        pytest.skip("digits are nearly the same after this mistake")
    found = check_samples(reading.spoil(FRESH), TRAINING, HELDOUT)
    assert found.record.kind == "value range"
    assert found.record.reading is not None
    assert found.record.reading in (found.record.problem or "")
    assert found.reinterpreted is not None
    assert found.reinterpreted.shape == FRESH.shape


@pytest.mark.parametrize(
    "reading", few([r for r in COLOUR if "multiplied by 255" not in r.mistake and "by 64" not in r.mistake], 4),
    ids=lambda reading: reading.title,
)  # fmt: skip
def test_a_wrong_value_range_of_colour_images_is_named(reading):
    samples = reading.spoil(MORE_SCENES)
    if np.ptp(samples.reshape(len(samples), -1), axis=1).min() == 0:
        pytest.skip("the mistake leaves constant images")
    assert check_samples(samples, SCENES).record.kind == "value range"


@pytest.mark.cifar
@pytest.mark.parametrize("reading", few(COLOUR, 4), ids=lambda reading: reading.title)
def test_a_wrong_value_range_of_photographs_is_named(reading, cifar_archive):
    training = open_images(cifar_archive).images
    fresh = open_images(cifar_archive, "test").images
    if reading.title in ("red and blue exchanged", "values inverted"):
        pytest.skip("100 photographs are too few to tell")
    assert check_samples(reading.spoil(fresh), training).record.kind == "value range"


EXACT = [
    "values inverted",
    "values shifted by 128, modulo 256",
    "red and blue exchanged",
    "bytes read as rows, columns, channels",
]


@pytest.mark.parametrize("title", EXACT)
def test_a_mistake_that_loses_nothing_is_undone_exactly(title):
    (reading,) = (each for each in COLOUR if each.title == title)
    np.testing.assert_array_equal(reading.mend(reading.spoil(MORE_SCENES)), MORE_SCENES)


@pytest.mark.parametrize(
    "title", ["values doubled", "values doubled, less 255", "values halved", "values times 4"]
)
def test_a_mistake_that_rounds_or_clips_is_undone_up_to_that(title):
    (reading,) = (each for each in GREY if each.title == title)
    faint = tools.bytes_of(60 + FRESH / 255 * 60)
    assert np.abs(reading.mend(reading.spoil(faint)).astype(int) - faint).max() <= 2


def test_a_wrapped_doubling_is_followed_back_where_the_image_is_smooth():
    (reading,) = (each for each in COLOUR if FAINT in each.mistake)
    mended = reading.mend(reading.spoil(MORE_SCENES))
    assert np.median(np.abs(mended.astype(int) - MORE_SCENES)) <= 1


def test_samples_of_0_and_1_are_read_as_0_and_255_and_not_taken_for_constant():
    found = check_samples((FRESH > 127).astype(np.uint8), (TRAINING > 127).astype(np.uint8) * np.uint8(255))
    assert (found.record.kind, found.record.reading) == ("value range", "values times 255")
    np.testing.assert_array_equal(found.reinterpreted, (FRESH > 127) * 255)


def test_training_images_of_12_bits_in_16_are_told_from_samples_of_8():
    found = check_samples(MORE_SCENES, tools.bytes_of(SCENES * (4095 / 255 / 257)))
    assert (found.record.kind, found.record.reading) == ("value range", "values divided by 16")
    assert found.record.statistics["training"].grey_levels <= 17


def test_copies_are_copies_under_the_reading():
    found = check_samples(SCENES // 2, SCENES)
    assert found.reinterpreted is not None
    assert np.abs(found.reinterpreted.astype(int) - SCENES).max() <= 1


def test_noise_has_no_reading():
    found = check_samples(tools.white_noise(MORE_SCENES), SCENES)
    assert found.record.reading is None
    assert found.reinterpreted is None
