import numpy as np
import pytest
from data_builders import image_set
from hypothesis import given
from hypothesis import strategies as st

from diffmem.data import duplicate_groups, open_images
from diffmem.errors import UserError


def test_distinct_images_are_their_own_groups():
    assert duplicate_groups(open_images("digits")).tolist() == list(range(1797))


@given(st.lists(st.integers(0, 5), max_size=30))
def test_each_copy_points_to_the_first_of_its_kind(kinds):
    array = np.array(kinds, np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 3, 2, 2), np.uint8)
    assert duplicate_groups(array).tolist() == [kinds.index(kind) for kind in kinds]


def test_labels_do_not_matter():
    images = image_set(4).take([0, 1, 0, 1], "twice").with_labels([0, 1, 2, 3], None, "unique")
    assert duplicate_groups(images).tolist() == [0, 1, 0, 1]


def test_images_that_share_a_hash_but_differ_stay_apart(monkeypatch):
    class Same:
        def __init__(self, content, digest_size): ...

        def digest(self):
            return b"same"

    monkeypatch.setattr("hashlib.blake2b", Same)
    assert duplicate_groups(image_set(5).take([0, 1, 2, 1, 0], "some")).tolist() == [0, 1, 2, 1, 0]


def test_other_types_are_refused():
    with pytest.raises(UserError, match="float32"):
        duplicate_groups(np.zeros((2, 3), np.float32))
