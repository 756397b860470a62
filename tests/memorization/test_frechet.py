import math

import numpy as np
import pytest
from frechet_tools import frechet_of_images
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import DiffmemError, UserError
from diffmem.memorization.frechet import (
    feature_moments,
    frechet_distance,
    frechet_of_moments,
    too_few_images,
)


def covariance(seed, size, rank=None):
    rows = np.random.default_rng(seed).normal(size=(rank or size, size))
    return rows.T @ rows


def flat(images):
    return images.reshape(len(images), -1).astype(np.float32)


def noise(seed, count, shape=(1, 2, 2)):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
@settings(max_examples=30)
def test_equal_gaussians_have_distance_zero_also_where_they_are_singular(seed, size, rank):
    cov, mean = covariance(seed, size, rank), np.random.default_rng(seed).normal(size=size)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-10 * max(1, np.trace(cov)))


def test_gaussians_of_one_covariance_are_apart_by_the_square_of_their_shift():
    cov, shift = covariance(1, 5), np.array([3.0, 0, -4, 0, 0])
    assert frechet_distance(np.zeros(5), cov, shift, cov) == pytest.approx(25)


def test_diagonal_covariances_compare_by_standard_deviations():
    one, other = np.array([1.0, 4, 0, 9]), np.array([4.0, 4, 1, 0])
    wanted = ((np.sqrt(one) - np.sqrt(other)) ** 2).sum()
    assert frechet_distance(np.zeros(4), np.diag(one), np.zeros(4), np.diag(other)) == pytest.approx(wanted)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_commuting_covariances_compare_by_standard_deviations_in_their_common_axes(seed):
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    one, other = rng.uniform(0, 9, 5), rng.uniform(0, 9, 5)
    found = frechet_distance(np.zeros(5), axes * one @ axes.T, np.zeros(5), axes * other @ axes.T)
    assert found == pytest.approx(((np.sqrt(one) - np.sqrt(other)) ** 2).sum(), rel=1e-6, abs=1e-6)


def test_two_by_two_covariances_agree_with_the_closed_form_of_the_trace():
    # tr sqrt(M) of a 2x2 matrix is sqrt(tr M + 2 sqrt(det M)).
    one, other = covariance(3, 2), covariance(4, 2)
    product = one @ other
    cross = math.sqrt(np.trace(product) + 2 * math.sqrt(np.linalg.det(product)))
    wanted = np.trace(one) + np.trace(other) - 2 * cross
    assert frechet_distance(np.zeros(2), one, np.zeros(2), other) == pytest.approx(wanted)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_the_distance_is_symmetric_and_its_root_obeys_the_triangle_inequality(seed):
    gaussians = [
        (np.random.default_rng(seed + i).normal(size=4), covariance(seed + i, 4, 1 + i)) for i in range(3)
    ]
    a, b, c = ((x, y) for x in range(3) for y in range(x))
    root = {(x, y): math.sqrt(frechet_distance(*gaussians[x], *gaussians[y])) for x, y in (a, b, c)}
    for x, y in root:
        assert root[x, y] == pytest.approx(
            math.sqrt(frechet_distance(*gaussians[y], *gaussians[x])), abs=1e-6
        )
    sides = sorted(root.values())
    assert sides[2] <= sides[0] + sides[1] + 1e-6


@pytest.mark.parametrize("wrong", ["shape", "nan"])
def test_gaussians_that_are_none_are_refused(wrong):
    cov = np.eye(3) if wrong == "shape" else np.full((2, 2), np.nan)
    with pytest.raises(UserError, match=r"one F|not finite"):
        frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), cov)


@pytest.mark.parametrize("count", [2, 255, 256, 257, 700])
def test_moments_joined_from_batches_are_those_of_all_images(count):
    images = noise(0, count) // 8 + 200  # a mean that is large beside the spread
    found = feature_moments(images, flat)
    np.testing.assert_allclose(found.mean, flat(images).astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(flat(images).astype(float).T), rtol=1e-10, atol=1e-9)
    assert found.count == count


def test_the_distance_of_a_set_to_itself_is_zero_and_grows_with_a_shift():
    images = noise(1, 50) // 2
    assert frechet_of_images(images, images, flat) == pytest.approx(0, abs=1e-8)
    assert frechet_of_images(images, images + 10, flat) == pytest.approx(4 * 10**2)


def test_as_many_images_as_features_are_too_few_on_either_side_and_one_more_is_enough():
    many, enough, few = noise(2, 50), noise(3, 5), noise(4, 4)
    assert frechet_of_images(many, enough, flat) >= 0
    for pair in ((many, few), (few, many)):
        with pytest.raises(UserError, match="needs more than 4 images on both sides, but there are 4"):
            frechet_of_images(*pair, flat)
    assert too_few_images(5, 4) is None
    with pytest.raises(UserError, match="4 images on both sides, but there are 4"):
        frechet_of_moments(feature_moments(many, flat), feature_moments(few, flat))


def test_one_image_has_no_covariance():
    with pytest.raises(UserError, match="at least 2 images, not 1"):
        feature_moments(noise(0, 1), flat)


@pytest.mark.parametrize(
    "features",
    [
        lambda images: flat(images)[1:],
        lambda images: flat(images).ravel(),
        lambda images: flat(images) * np.nan,
    ],
)
def test_features_that_are_no_finite_rows_are_refused(features):
    with pytest.raises(DiffmemError, match=r"one row for each|not finite"):
        feature_moments(noise(0, 5), features)
