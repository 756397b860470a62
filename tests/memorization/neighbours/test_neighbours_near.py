from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import DiffmemError, UserError
from diffmem.memorization.neighbours import near
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.near import NearPairs, pairs_within


def images(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120, 60, (count, 3, 2, 2)).repeat(8, 2).repeat(8, 3)
    return (coarse + rng.normal(0, 6, coarse.shape)).clip(0, 255).astype(np.uint8)


def brute(references: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    rows = references.reshape(len(references), -1).astype(np.float64)
    distances = np.sqrt([np.square(rows - row).sum(1) for row in rows])
    first, second = np.nonzero(np.triu(distances <= radius, 1))
    return np.stack([first, second], 1), distances[first, second]


def check(
    references: np.ndarray, radius: float, index: NeighbourIndex | None = None, known=None
) -> NearPairs:
    found = pairs_within(references, radius, index=index)
    pairs, distances = known or brute(references, radius)
    np.testing.assert_array_equal(found.pairs, pairs)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-13)
    return found


def test_planted_near_duplicates_are_all_found():
    rng = np.random.default_rng(0)
    references = images(1, 3000)
    originals, copies = rng.permutation(3000)[:200].reshape(2, 100)
    references[copies] = (references[originals].astype(int) + rng.integers(-1, 2, (100, 3, 16, 16))).clip(
        0, 255
    )
    references[copies[:10]] = references[originals[:10]]
    found = pairs_within(references, 768**0.5)
    planted = np.sort(np.stack([originals, copies], 1), 1)
    np.testing.assert_array_equal(found.pairs, planted[np.lexsort((planted[:, 1], planted[:, 0]))])
    assert (found.distances == 0).sum() == 10


@pytest.fixture(scope="module", params=[0, 120.0, 400.0, 1e5])
def paired(request):
    """Images, a radius, and the pairs within it."""
    references = np.concatenate([images(2, 300), images(2, 20) ^ 1, images(2, 15)])
    return references, request.param, brute(references, request.param)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_pairs_equal_brute_force_with_and_without_an_index(kind, paired):
    references, radius, known = paired
    references = references.astype(kind)
    one = check(references, radius, known=known)
    other = check(references, radius, NeighbourIndex.build(references), known)
    np.testing.assert_array_equal(one.distances, other.distances)


@settings(max_examples=40)
@given(data=st.data())
def test_few_grey_levels_equal_brute_force(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    shape = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 30))
    references = rng.integers(0, data.draw(st.integers(1, 5)), shape, np.uint8)
    check(references, data.draw(st.sampled_from([0.0, 1.0, 2**0.5, 2.0, 3.7])))


def test_distances_equal_to_the_radius_are_within_it():
    references = np.zeros((2, 3072), np.uint8)
    references[1] = 1
    assert len(pairs_within(references, 3072**0.5)) == 1
    assert len(pairs_within(references, np.nextafter(3072**0.5, 0))) == 0


def test_white_noise_and_scaled_floats_equal_brute_force():
    rng = np.random.default_rng(3)
    references = rng.normal(size=(200, 50))
    references[100:] = references[:100] + 1e-9 * rng.normal(size=(100, 50))
    for scale in (1e-20, 1.0, 1e10):
        check(scale * references, scale * 1e-8)
        check(scale * (references + 10), scale * 8.0)


def test_small_blocks_and_tiles_do_not_change_the_result(monkeypatch):
    for name in ("BLOCK", "TILE", "MANY"):
        monkeypatch.setattr(near, name, 7)
    check(np.concatenate([images(4, 100), images(4, 30)]), 500.0)


def test_a_radius_that_joins_too_many_pairs_is_refused(monkeypatch):
    monkeypatch.setattr(near, "MOST_PAIRS", 1000)
    with pytest.raises(
        UserError, match=r"More than 1,000 pairs lie within radius 1e\+06.*memory.*smaller radius"
    ):
        pairs_within(images(5, 100), 1e6)


def test_one_image_has_no_pairs():
    found = pairs_within(images(0, 1), 10)
    assert found.pairs.shape == (0, 2)
    assert len(found) == 0


def test_progress_grows_to_the_number_of_references():
    seen: list[tuple[float, float]] = []
    pairs_within(images(0, 2000), 1.0, progress=lambda done, total, note="": seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (2000, 2000)


@pytest.mark.parametrize("radius", [-1.0, np.nan, np.inf])
def test_an_impossible_radius_is_refused(radius):
    with pytest.raises(UserError, match="radius = "):
        pairs_within(images(0, 3), radius)


def test_the_index_of_others_is_refused():
    with pytest.raises(UserError, match="not of these"):
        pairs_within(images(0, 300), 1.0, index=NeighbourIndex.build(images(1, 300)))
    with pytest.raises(UserError, match="cosine"):
        pairs_within(images(0, 300), 1.0, index=NeighbourIndex.build(images(0, 300), metric="cosine"))


def test_pairs_of_another_shape_are_refused():
    with pytest.raises(DiffmemError, match="Pairs must be"):
        NearPairs(np.zeros((2, 3), np.int64), np.zeros(2))
