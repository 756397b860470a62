from __future__ import annotations

import numpy as np
import pytest

from diffmem.errors import UserError
from diffmem.memorization import cells as module
from diffmem.memorization.cells import Cells


def blobs(seed: int, count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Points near three far corners, and which."""
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 3, count)
    corners = 20 * np.eye(3, dim)
    return corners[which] + rng.normal(size=(count, dim)), which


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    return (
        len(set(zip(one.tolist(), other.tolist(), strict=True)))
        == len(set(one.tolist()))
        == len(set(other.tolist()))
    )


@pytest.mark.parametrize("dim", [3, 40, 200])
def test_separate_clusters_are_cells(dim):
    points, which = blobs(0, 200, dim)
    cells = Cells.fit(points)
    assert (cells.directions is None) == (dim <= 64)
    assert same_partition(cells.of(points), which)
    fresh, where = blobs(1, 100, dim)
    assert same_partition(cells.of(fresh), where)


def test_images_are_flattened():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 5, 5), np.uint8)
    cells = Cells.fit(images, 4, components=10)
    assert cells.directions is not None
    assert cells.directions.shape == (75, 10)
    np.testing.assert_array_equal(cells.of(images), cells.of(images.reshape(50, -1).astype(np.float32)))
    assert set(cells.of(images)) == {0, 1, 2, 3}


@pytest.mark.parametrize("dim", [2, 100])
def test_neither_order_nor_repetition_changes_the_cells(dim):
    points = np.random.default_rng(1).normal(size=(150, dim))
    order = np.random.default_rng(2).permutation(150)
    one = Cells.fit(points)
    for other in (points[order], np.concatenate([points, points[:50], points[:50]])):
        np.testing.assert_allclose(Cells.fit(other).centres, one.centres, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [4, 100])
def test_the_same_seed_gives_the_same_cells(dim):
    points = np.random.default_rng(3).normal(size=(200, dim))
    one, two, other = (Cells.fit(points, 5, seed=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.centres, two.centres)
    assert not np.array_equal(one.centres, other.centres)


def test_of_large_sets_a_part_is_used(monkeypatch):
    points, which = blobs(4, 600, 100)
    monkeypatch.setattr(module, "_FIT_VALUES", 1000)
    assert same_partition(Cells.fit(points).of(points), which)


def test_an_image_belongs_to_its_nearest_centre():
    cells = Cells.fit(np.random.default_rng(5).normal(size=(100, 4)), 3)
    images = np.random.default_rng(6).normal(size=(50, 4))
    centres = cells.centres + cells.mean
    expected = np.linalg.norm(images[:, None] - centres, axis=2).argmin(1)
    np.testing.assert_array_equal(cells.of(images), expected)


def test_fewer_images_than_cells_are_refused():
    with pytest.raises(UserError, match="at least 3 distinct training images, and there are 2"):
        Cells.fit(np.array([[0.0], [1.0], [1.0]]), 3)


def test_values_that_are_not_finite_are_refused():
    points = np.random.default_rng(0).normal(size=(30, 2))
    bad = points.copy()
    bad[4, 1] = np.nan
    with pytest.raises(UserError, match="not finite"):
        Cells.fit(bad)
    with pytest.raises(UserError, match="not finite"):
        Cells.fit(points).of(bad)


def test_no_cells_are_refused():
    with pytest.raises(UserError, match="choose 1 or more"):
        Cells.fit(np.ones((3, 2)), 0)
