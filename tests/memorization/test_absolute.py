from __future__ import annotations

import numpy as np
import pytest

from diffmem.errors import UserError
from diffmem.memorization.criteria import Criterion, NormalizedRule, SimilarityRule
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours

SHAPE = (3, 4, 4)


def pictures(*levels: int) -> np.ndarray:
    return np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, *SHAPE), np.uint8)


def test_rms_is_that_of_images_with_values_zero_to_one():
    found = nearest_neighbours(pictures(0, 51, 255), pictures(0), 1)
    np.testing.assert_allclose(NormalizedRule(0.15, SHAPE).rms(found), [0, 0.2, 1], rtol=1e-14)


@pytest.mark.parametrize("grey", [1, 7, 38, 51, 254, 255])
def test_a_difference_equal_to_the_threshold_is_within_it_whatever_the_shape(grey):
    for shape in ((3, 4, 4), (1, 7, 5), (3, 32, 32)):
        found = nearest_neighbours(np.full((1, *shape), grey, np.uint8), np.zeros((1, *shape), np.uint8), 1)
        assert NormalizedRule(grey / 255, shape)(found)[0]
        assert not NormalizedRule((grey - 0.001) / 255, shape)(found)[0]


def test_the_threshold_in_grey_levels_over_all_values():
    assert NormalizedRule(1 / 255, (3, 32, 32)).radius == pytest.approx(3072**0.5)


def test_threshold_zero_finds_exact_copies():
    found = nearest_neighbours(pictures(9, 10), pictures(9, 200), 1)
    np.testing.assert_array_equal(NormalizedRule(0, SHAPE)(found), [True, False])


def test_similarity_is_the_cosine_of_the_nearest():
    angles = np.radians([0, 30, 60, 90, 180])
    features = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = nearest_neighbours(features, np.array([[3.0, 0.0]]), 1, metric="cosine")
    np.testing.assert_allclose(SimilarityRule().similarity(found), np.cos(angles), atol=1e-15)
    np.testing.assert_array_equal(SimilarityRule(0.7)(found), [True, True, False, False, False])


def test_the_similarity_must_be_above_the_threshold():
    found = Neighbours(np.array([[0.5], [0.499]]), np.zeros((2, 1), np.int64))
    np.testing.assert_array_equal(SimilarityRule(0.5)(found), [False, True])


def test_distances_of_pixels_are_no_similarities():
    with pytest.raises(UserError, match="metric='cosine'"):
        SimilarityRule()(Neighbours(np.array([[100.0]]), np.zeros((1, 1), np.int64)))


def test_rules_name_their_constants_in_units_that_images_of_any_size_share():
    assert NormalizedRule(0.15, SHAPE).name == NormalizedRule(0.15, (3, 512, 512)).name == "rms01<=0.15"
    assert SimilarityRule(0.75).name == "cosine>0.75"
    assert isinstance(NormalizedRule(0.1, SHAPE), Criterion)
    assert isinstance(SimilarityRule(), Criterion)


@pytest.mark.parametrize("threshold", [-0.1, 38, float("nan")])
def test_a_threshold_in_grey_levels_is_refused(threshold):
    with pytest.raises(UserError, match="divide grey levels by 255"):
        NormalizedRule(threshold, SHAPE)


@pytest.mark.parametrize("shape", [(), (3, 0, 4)])
def test_an_empty_shape_is_refused(shape):
    with pytest.raises(UserError, match="holds no values"):
        NormalizedRule(0.1, shape)


@pytest.mark.parametrize("threshold", [-1, 1, float("nan")])
def test_an_impossible_similarity_is_refused(threshold):
    with pytest.raises(UserError, match="similarity"):
        SimilarityRule(threshold)
