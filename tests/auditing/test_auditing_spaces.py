import numpy as np
import pytest

from diffmem.auditing.spaces import FeatureSpace, align
from diffmem.data import ImageSet
from diffmem.errors import UserError

RNG = np.random.default_rng(0)


def images(count, shape):
    names = tuple(map(str, range(count)))
    return ImageSet(RNG.integers(0, 256, (count, *shape), dtype=np.uint8), None, names)


def test_sets_of_one_shape_stay_as_they_are():
    sets = {"training": images(4, (3, 6, 8)), "samples": images(2, (3, 6, 8))}
    found = align(sets)
    assert found.sets == sets
    assert found.protocol == "pixel-l2/uint8"
    assert found.steps == {"training": [], "samples": []}
    assert not found.notes


def test_different_sizes_are_compared_at_the_smallest_and_it_is_said():
    found = align(
        {
            "training": images(4, (3, 32, 24)),
            "heldout": images(3, (3, 16, 16)),
            "samples": images(2, (3, 64, 64)),
        }
    )
    assert {one.shape for one in found.sets.values()} == {(3, 16, 16)}
    assert found.protocol == "pixel-l2/uint8/lanczos16"
    assert "centre crop" in found.steps["training"][0]
    assert found.steps["heldout"] == []
    assert "16 x 16" in found.notes[0]


def test_a_grey_set_makes_the_comparison_grey():
    found = align({"training": images(4, (3, 8, 8)), "samples": images(2, (1, 8, 8))})
    assert {one.shape for one in found.sets.values()} == {(1, 8, 8)}
    assert found.protocol.endswith("/grey")
    assert "samples" in found.notes[0]


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: np.full((len(x), 3), np.nan),
        lambda x: np.zeros((len(x), 3)),
        lambda x: np.ones((len(x) + 1, 3)),
        lambda x: np.ones(len(x)),
        lambda x: np.ones((len(x), 3), int),
    ],
)
def test_features_that_are_no_rows_of_finite_numbers_are_refused(compute):
    with pytest.raises(UserError, match="mine"):
        FeatureSpace("mine", "mine", "mine", 0.5, compute).rows(images(5, (1, 4, 4)).images)


def test_features_do_not_depend_on_the_blocks_they_are_computed_in(monkeypatch):
    some = images(10, (1, 4, 4)).images
    space = FeatureSpace("f", "f", "f", 0.5, lambda x: x.reshape(len(x), -1).astype(float) + 1)
    whole = space.rows(some)
    monkeypatch.setattr("diffmem.auditing.spaces._BLOCK", 3)
    np.testing.assert_array_equal(space.rows(some), whole)
