import numpy as np
import plausibility_tools as tools
import pytest

from diffmem.memorization.plausibility import check_samples
from diffmem.memorization.plausibility.borders import find_border

SCENES, FRESH = tools.scenes(200, 0), tools.scenes(200, 1)


def framed(images, above, below, left, right, value=255):
    found = images.copy()
    for part in (
        found[:, :, :above], found[:, :, images.shape[2] - below :], found[..., :left], found[..., images.shape[3] - right :],
    ):  # fmt: skip
        part[...] = value
    return found


@pytest.mark.parametrize("widths", [(4, 4, 4, 4), (0, 0, 6, 6), (0, 20, 0, 0), (0, 0, 16, 0)])
def test_a_border_that_training_images_lack_is_found_with_its_widths(widths):
    samples = framed(FRESH, *widths)
    border = find_border(samples, SCENES)
    assert border.widths == widths
    assert border.share == 1
    found = check_samples(samples, SCENES)
    assert found.record.kind == "border"
    assert "cut the border off" in found.record.problem
    above, below, left, right = widths
    np.testing.assert_array_equal(
        found.border.without(samples), FRESH[:, :, above : 32 - below, left : 32 - right]
    )


def test_images_without_a_border_and_those_of_a_set_with_borders_have_none():
    assert find_border(FRESH, SCENES) is None
    assert find_border(framed(FRESH, 4, 4, 4, 4), framed(SCENES, 4, 4, 4, 4, value=0)) is None
    assert find_border(framed(FRESH, 4, 4, 4, 4), SCENES[:10]) is None


def test_a_border_of_few_samples_is_none():
    some = np.concatenate([framed(FRESH[:60], 4, 4, 4, 4), FRESH[60:]])
    assert find_border(some, SCENES) is None


def test_edges_of_every_width_are_no_border():
    ragged = np.stack([framed(FRESH[at : at + 1], at % 16 + 1, 0, 0, 0)[0] for at in range(len(FRESH))])
    assert find_border(ragged, SCENES) is None
