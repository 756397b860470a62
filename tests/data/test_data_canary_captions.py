from dataclasses import replace

import numpy as np
import pytest
from data_builders import image_set

from diffmem.data import CanarySet, plant_canaries
from diffmem.data.canaries import parse_repeats
from diffmem.errors import UserError


def captioned(count=60):
    return replace(
        image_set(count, (3, 8, 8)), captions=tuple(f"sks scene {number}" for number in range(count))
    )


def test_each_level_of_repeats_has_as_many_canaries_as_the_others():
    made, canaries = plant_canaries(captioned(), 8, (1, 5, 25), 0)
    assert np.bincount(canaries.levels)[[1, 5, 25]].tolist() == [3, 3, 2]
    assert (canaries.repeats, len(made)) == (25, 60 - 16 + 3 * 1 + 3 * 5 + 2 * 25)
    for image, level in zip(canaries.planted, canaries.levels, strict=True):
        assert (made.images == image).all(axis=(1, 2, 3)).sum() == level
    for image in canaries.control:
        assert not (made.images == image).all(axis=(1, 2, 3)).any()


def test_which_canary_has_which_level_is_a_draw_of_the_seed():
    drawn = [plant_canaries(captioned(), 8, (1, 5), seed)[1].levels.tolist() for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len({tuple(each) for each in drawn}) > 1


def test_each_canary_has_the_caption_of_its_image_with_two_words_that_no_other_caption_has():
    images = captioned()
    made, canaries = plant_canaries(images, 6, (1, 4), 3, captions=True)
    every = [*canaries.planted_captions, *canaries.control_captions]
    bases = [caption.rpartition(", ")[0] for caption in every]
    assert len(set(bases)) == 12
    assert set(bases) <= set(images.captions)
    words = [word for caption in every for word in caption.rpartition(", ")[2].split()]
    assert len(set(words)) == 24
    assert {len(word) for word in words} == {4}
    for caption, level in zip(canaries.planted_captions, canaries.levels, strict=True):
        assert made.captions.count(caption) == level
    assert not set(canaries.control_captions) & set(made.captions)


def test_an_epoch_holds_a_canary_as_often_as_its_level_says_whatever_the_repeats_of_its_image():
    images = replace(captioned(), repeats=np.full(60, 10))
    made, canaries = plant_canaries(images, 6, (1, 4), 3)
    assert made.repeats.tolist() == [10] * 48 + [1] * int(canaries.levels.sum())


def test_one_level_without_captions_is_the_set_of_before():
    one, first = plant_canaries(captioned(), 5, 3, 1)
    two, second = plant_canaries(captioned(), 5, (3,), 1)
    assert one.fingerprint == two.fingerprint
    assert (first.levels, second.levels, first.planted_captions) == (None, None, None)


def test_levels_and_captions_are_kept_in_the_file(tmp_path):
    _, canaries = plant_canaries(captioned(), 4, (1, 2), 0, captions=True)
    canaries.save(tmp_path / "c.npz")
    read = CanarySet.load(tmp_path / "c.npz")
    assert read.levels.tolist() == canaries.levels.tolist()
    assert (read.planted_captions, read.control_captions) == (
        canaries.planted_captions,
        canaries.control_captions,
    )


def test_captions_and_levels_that_do_not_fit_are_refused():
    _, canaries = plant_canaries(captioned(), 4, (1, 2), 0, captions=True)
    for change in (
        {"levels": np.array([1, 2, 3, 1])},
        {"levels": np.array([0, 2, 1, 1])},
        {"control_captions": None},
        {"control_captions": canaries.planted_captions},
    ):
        with pytest.raises(UserError, match=r"Levels must|Captions of canaries must"):
            replace(canaries, **change)
    with pytest.raises(UserError, match="need a set with captions"):
        plant_canaries(image_set(60, (3, 8, 8)), 4, 1, 0, captions=True)
    with pytest.raises(UserError, match="3 levels of repeats need as many canaries"):
        plant_canaries(captioned(), 2, (1, 5, 25), 0)


@pytest.mark.parametrize(("text", "levels"), [("5", (5,)), ("1+5+25", (1, 5, 25)), ("0", (0,))])
def test_repeats_are_a_number_or_several(text, levels):
    assert parse_repeats(text) == levels


@pytest.mark.parametrize("text", ["", "1+", "a", "1+1", "-3", "1.5"])
def test_other_repeats_are_refused(text):
    with pytest.raises(UserError, match=r"such as 1\+5\+25"):
        parse_repeats(text)
