from collections import Counter

import numpy as np
import pytest
from data_builders import image_set
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from diffmem.data import balanced, duplicate_groups, duplicated, first, random_subset
from diffmem.errors import UserError

SET = image_set(60, (1, 3, 3), classes=3)
SHARES, SEEDS = st.floats(0, 1), st.integers(0, 2**64)


def chosen(images, share, copies=2, seed=0):
    """The images that occur more than once, by their pixels, and how often each occurs."""
    counts = Counter(pixels.tobytes() for pixels in duplicated(images, share, copies, seed).images)
    return {pixels: count for pixels, count in counts.items() if count > 1}


@given(SHARES, st.integers(2, 5), SEEDS)
def test_chosen_images_occur_copies_times_and_the_rest_once(share, copies, seed):
    # trap: copies make the two nearest distances equal; the groups of exact copies tell them
    result = duplicated(SET, share, copies, seed)
    times = np.bincount(duplicate_groups(result), minlength=len(SET))[: len(SET)]
    assert set(times.tolist()) <= {1, copies}
    np.testing.assert_array_equal(result.images[:60], SET.images)
    assert len(result) == 60 + (copies - 1) * int((times == copies).sum())


@given(SHARES, SEEDS, st.integers(1, 20), st.integers(0, 9))
def test_the_same_images_are_chosen_at_every_size_and_selection(share, seed, third, draw):
    whole = chosen(SET, share, seed=seed)
    for part in (first(SET, third), balanced(SET, 3 * third), random_subset(SET, third, draw)):
        inside = {pixels.tobytes() for pixels in part.images}
        assert chosen(part, share, seed=seed).keys() == whole.keys() & inside


@given(SHARES, SHARES, SEEDS)
def test_a_larger_share_keeps_the_images_of_a_smaller_one(a, b, seed):
    small, large = sorted((a, b))
    assert chosen(SET, small, seed=seed).keys() <= chosen(SET, large, seed=seed).keys()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_share_of_chosen_images_is_the_share_on_average(share):
    many = image_set(5000, (1, 3, 3), classes=0)
    assert binomtest(len(duplicated(many, share, 2, 1)) - 5000, 5000, share).pvalue > 1e-3


def test_nobody_and_everybody_can_be_duplicated():
    assert duplicated(SET, 0, 5, 0).fingerprint == SET.fingerprint
    assert len(duplicated(SET, 1, 5, 0)) == 300
    assert duplicated(SET, 1, 1, 0).names == SET.names


def test_other_seeds_choose_other_images():
    assert chosen(SET, 0.5, seed=0) != chosen(SET, 0.5, seed=1)


def test_copies_keep_their_label_and_their_names_tell_them_apart():
    result = duplicated(first(SET, 2), 1, 3, 0)
    assert result.labels.tolist() == [0, 1] * 3
    assert result.class_names == SET.class_names
    assert result.names == tuple(f"image {k} (copy {copy} of 3)" for copy in (1, 2, 3) for k in (0, 1))


def test_the_history_tells_how_many_were_chosen():
    result = duplicated(SET, 0.5, 3, 0)
    count = (len(result) - 60) // 2
    told = f"duplicated: {count} of 60 images (share 0.5, seed 0) occur 3 times, {len(result)} images in all"
    assert result.history[-1] == told


def test_a_set_without_labels_and_one_of_a_single_image_can_be_duplicated():
    assert duplicated(image_set(1, classes=0), 1, 4, 0).labels is None


@pytest.mark.parametrize(
    ("share", "copies", "seed", "told"),
    [(1.1, 2, 0, "between 0 and 1"), (0.5, 0, 0, "not 0"), (0.5, 2, -1, "not -1"), (1, 10**12, 0, "GiB")],
)
def test_duplication_out_of_range_is_refused(share, copies, seed, told):
    with pytest.raises(UserError, match=told):
        duplicated(SET, share, copies, seed)
