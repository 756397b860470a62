from __future__ import annotations

import numpy as np
import pytest

from diffmem.data.duplicates import duplicate_groups
from diffmem.errors import UserError
from diffmem.memorization.neighbours.contents import common_space, content_keys, distinct, present, taken


def few(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2, (count, 1, 2, 3), np.uint8)


def test_distinct_images_are_those_that_are_no_copy_of_an_earlier_one():
    images = few(0, 100)
    first = np.flatnonzero(duplicate_groups(images) == np.arange(100))
    np.testing.assert_array_equal(np.sort(distinct(content_keys(images))), first)


def test_the_order_of_contents_does_not_depend_on_the_order_of_images():
    images = few(1, 100)
    order = np.random.default_rng(2).permutation(100)
    one = images[distinct(content_keys(images))]
    np.testing.assert_array_equal(one, images[order][distinct(content_keys(images[order]))])


def test_equal_numbers_have_equal_keys():
    keys = content_keys(np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(keys[0], keys[1])
    assert (keys[0] != keys[2]).all()


def test_views_have_the_keys_of_their_values():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), np.uint8)
    np.testing.assert_array_equal(content_keys(images[..., ::-1]), content_keys(images[..., ::-1].copy()))


def test_present_says_which_keys_are_known():
    images, known = few(3, 60), few(4, 20)
    expected = [any(np.array_equal(image, other) for other in known) for image in images]
    assert 0 < sum(expected) < 60
    np.testing.assert_array_equal(present(content_keys(images), content_keys(known)), expected)


def test_half_of_a_key_is_not_enough_to_be_known():
    assert not present(np.array([[1, 2]], np.uint64), np.array([[1, 3]], np.uint64))[0]


def test_taking_all_copies_nothing():
    images = few(0, 10)
    assert taken(images, np.arange(10)) is images
    np.testing.assert_array_equal(taken(images, np.array([3, 1])), images[[3, 1]])
    assert taken(images, np.array([], np.int64)).shape == (0, 1, 2, 3)


def test_spaces_have_names():
    images, features = {"a": few(0, 2)}, {"a": np.ones((2, 3), np.float32)}
    assert common_space(images, "euclidean", None) == "pixel-l2/uint8"
    assert common_space(features, "cosine", None) == "cosine/float32"
    assert common_space(features, "cosine", "sscd") == "sscd"


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.ones((2, 1, 2, 3)), "one type and shape"),
        (np.ones((2, 1, 3, 2), np.uint8), "one type and shape"),
        (np.ones((2, 1, 2, 3), np.int64), "type int64"),
        (np.ones((2, 1, 2, 3), np.uint16), "type uint16"),
        (np.ones((0, 1, 2, 3), np.uint8), "at least one"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(other, message):
    with pytest.raises(UserError, match=f"The samples .*{message}"):
        common_space({"training images": few(0, 2), "samples": other}, "euclidean", None)
