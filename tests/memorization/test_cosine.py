from __future__ import annotations

import numpy as np
import pytest

from diffmem.errors import UserError
from diffmem.memorization.neighbours import index
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import nearest_neighbours


def features(seed: int, count: int, dim: int = 64) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, dim)) * np.arange(1, dim + 1) ** -1.0 + 0.2


def brute(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    q, r = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, references))
    distances = np.square(q[:, None] - r).sum(2) / 2  # 1 - q.r loses its digits where the cosine is near 1
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), order


@pytest.mark.parametrize("leaf", [10, 128])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_angles_equal_brute_force_with_and_without_an_index(monkeypatch, leaf, kind):
    monkeypatch.setattr(index, "LEAF", leaf)
    references, queries = features(0, 900).astype(kind), features(1, 40).astype(kind)
    distances, indices = brute(queries.astype(np.float64), references.astype(np.float64), 4)
    for made in (None, NeighbourIndex.build(references, metric="cosine")):
        found = nearest_neighbours(queries, references, 4, metric="cosine", index=made)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_allclose(found.distances, distances, rtol=1e-11)


def test_the_length_of_rows_does_not_matter():
    references, queries = features(2, 300), features(3, 20)
    plain = nearest_neighbours(queries, references, 2, metric="cosine")
    powers = 2.0 ** np.random.default_rng(0).integers(-900, 900, 300)[:, None]
    scaled = nearest_neighbours(queries * 2.0**100, references * powers, 2, metric="cosine")
    np.testing.assert_array_equal(plain.indices, scaled.indices)
    np.testing.assert_array_equal(plain.distances, scaled.distances)


def test_the_given_arrays_stay_as_they_are():
    references, queries = features(2, 300), features(3, 20)
    kept = references.copy(), queries.copy()
    made = NeighbourIndex.build(references, metric="cosine")
    nearest_neighbours(queries, references, 2, metric="cosine", index=made)
    np.testing.assert_array_equal(references, kept[0])
    np.testing.assert_array_equal(queries, kept[1])


def test_known_angles_have_their_distances():
    references = np.array([[1.0, 0.0], [0.0, 3.0], [-2.0, 0.0], [5.0, 5.0]])
    found = nearest_neighbours(np.array([[10.0, 0.0]]), references, 4, metric="cosine")
    np.testing.assert_array_equal(found.indices, [[0, 3, 1, 2]])
    np.testing.assert_allclose(found.distances, [[0, 1 - 0.5**0.5, 1, 2]], rtol=1e-15, atol=1e-16)


def test_angles_too_small_for_one_minus_the_cosine_are_told_apart():
    references = np.array([[1.0, 3e-9], [1.0, 1e-9], [1.0, 2e-9]])
    found = nearest_neighbours(np.array([[1.0, 0.0]]), references, 3, metric="cosine")
    np.testing.assert_array_equal(found.indices, [[1, 2, 0]])
    np.testing.assert_allclose(found.distances, [[0.5e-18, 2e-18, 4.5e-18]], rtol=1e-12)


def test_uint8_images_can_be_compared_by_angle():
    rng = np.random.default_rng(4)
    references = rng.integers(0, 100, (200, 3, 4, 4), np.uint8)
    found = nearest_neighbours(references[20:30] * 2, references, 1, metric="cosine")
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(20, 30))
    assert found.distances.max() < 1e-15


def test_rows_of_zeros_have_no_angle():
    references = features(5, 2000)
    references[1500] = 0
    with pytest.raises(UserError, match="Row 1500 of the references is all zeros"):
        nearest_neighbours(references[:2], references, 2, metric="cosine")
    with pytest.raises(UserError, match="Row 0 of the queries is all zeros"):
        nearest_neighbours(references[1500:1501], references[:100], 2, metric="cosine")


def test_an_index_for_the_other_metric_is_refused():
    references = features(6, 300)
    with pytest.raises(UserError, match="cosine"):
        nearest_neighbours(
            references[:2], references, 2, index=NeighbourIndex.build(references, metric="cosine")
        )


def test_an_unknown_metric_is_refused():
    with pytest.raises(UserError, match="'angle' is unknown; choose 'euclidean' or 'cosine'"):
        nearest_neighbours(features(0, 3), features(0, 3), 1, metric="angle")
