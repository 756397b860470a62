from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem.errors import UserError
from diffmem.memorization.neighbours import cascade, index
from diffmem.memorization.neighbours.index import NeighbourIndex
from diffmem.memorization.neighbours.neighbours import nearest_neighbours


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Make leaves small, so that small searches have many; list how many queries each block left to the full product."""
    blocks = []
    search = cascade._Block.search

    def counted(self):
        left = search(self)
        blocks.append((len(left), len(self.ceiling)))
        return left

    monkeypatch.setattr(cascade._Block, "search", counted)
    monkeypatch.setattr(index, "LEAF", 12)
    monkeypatch.setattr(cascade, "dense_pays", lambda *sizes, built=False: False)
    return blocks


def smooth(seed: int, count: int, grain: float = 4) -> np.ndarray:
    """Return images (count, 3, 16, 16) whose energy lies in 12 directions, but for some grain."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120, 60, (count, 3, 2, 2)).repeat(8, 2).repeat(8, 3)
    return (coarse + rng.normal(0, grain, coarse.shape)).clip(0, 255).astype(np.uint8)


def noise(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), np.uint8)


def brute(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    q, r = (x.reshape(len(x), -1).astype(np.float64) for x in (queries, references))
    squares = np.stack([np.square(r - row).sum(1) for row in q])
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squares, order, 1)), order


def check(queries: np.ndarray, references: np.ndarray, k: int, known=None, **options) -> None:
    made = NeighbourIndex.build(references)
    found = nearest_neighbours(queries, references, k, index=made, **options)
    distances, indices = known or brute(queries, references, k)
    np.testing.assert_array_equal(found.indices, indices[:, :k])
    np.testing.assert_allclose(found.distances, distances[:, :k], rtol=1e-12)


def share_left(blocks: list[tuple[int, int]]) -> float:
    assert blocks
    return sum(left for left, _ in blocks) / sum(count for _, count in blocks)


@pytest.fixture(scope="module")
def searched():
    """Queries and references, and the distances and indices of the ten nearest."""
    references = smooth(0, 2000)
    queries = np.concatenate([smooth(1, 40), references[:20], references[30:50] ^ 1])
    return queries, references, brute(queries, references, 10)


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_indexed_searches_equal_brute_force_and_settle_all_queries(small, searched, kind, k):
    queries, references, known = searched
    check(queries.astype(kind), references.astype(kind), k, known)
    assert share_left(small) == 0


def test_uint8_queries_among_float_references_and_the_reverse_equal_brute_force(small):
    references, queries = smooth(0, 1000), smooth(1, 30)
    check(queries, references.astype(np.float32), 3)
    check(queries.astype(np.float64) + 0.25, references, 3)
    assert share_left(small) == 0


def test_white_noise_is_left_to_the_full_product_and_equals_brute_force(small):
    check(noise(0, 80), noise(1, 2000), 2)
    assert share_left(small) == 1


@pytest.mark.parametrize("grain", [8, 20, 60])
def test_a_mixture_of_settled_and_full_queries_equals_brute_force(small, grain):
    queries = np.concatenate([smooth(4, 30, 2), smooth(4, 30, grain), noise(3, 30)])
    queries = queries[np.random.default_rng(0).permutation(90)]
    check(queries, np.concatenate([smooth(5, 1000, 2), smooth(6, 1000, grain), noise(7, 500)]), 3)


def test_many_copies_among_references_come_in_order_of_index(small):
    references = smooth(7, 5).repeat(300, 0)
    check(np.concatenate([smooth(7, 5), smooth(8, 20)]), references, 3)


def test_constant_images_equal_brute_force(small):
    grey = np.arange(256, dtype=np.uint8)[:, None, None, None]
    references = np.broadcast_to(grey, (256, 3, 16, 16)).repeat(3, 0)
    check(np.concatenate([references[:30], smooth(1, 10)]), references, 4)
    check(references[:5], np.full((300, 3, 16, 16), 9, np.uint8), 2)


def test_bright_outliers_do_not_spoil_the_bounds(small):
    references = smooth(11, 2000)
    references[::100] = 255
    references[50::100] = 0
    check(np.concatenate([smooth(12, 40), references[:2]]), references, 2)
    assert share_left(small) == 0


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e-3, 1e6, 1e12])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_float_values_of_any_scale_equal_brute_force(scale, offset):
    references, queries = smooth(13, 600).astype(np.float64), smooth(14, 30).astype(np.float64)
    references += 0.3 * np.random.default_rng(0).random(references.shape)
    check(scale * (queries + offset), scale * (references + offset), 3)


def test_a_far_row_does_not_keep_the_others_from_being_settled(small):
    references = smooth(15, 2000).astype(np.float32)
    references[77] *= 1e3
    queries = np.concatenate([smooth(16, 40).astype(np.float32), references[77:78]])
    check(queries, references, 2)
    assert share_left(small) < 0.1


@settings(max_examples=40)
@given(data=st.data())
def test_few_grey_levels_with_many_ties_equal_brute_force(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim, levels = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 4))
    count = data.draw(st.integers(1, 500))
    references = rng.integers(0, levels, (count, dim), np.uint8)
    queries = rng.integers(0, levels, (data.draw(st.integers(1, 20)), dim), np.uint8)
    dtype = data.draw(st.sampled_from(["uint8", "float32", "float64"]))
    check(queries.astype(dtype), references.astype(dtype), data.draw(st.integers(1, min(10, count))))


@settings(max_examples=30)
@given(data=st.data())
def test_correlated_features_of_any_spectrum_equal_brute_force(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim, count = data.draw(st.integers(2, 300)), data.draw(st.integers(1, 600))
    spectrum = np.arange(1, dim + 1) ** -data.draw(st.floats(0, 3))
    mean = data.draw(st.sampled_from([0.0, 1.0, 1e4])) * rng.normal(size=dim)
    references, queries = (mean + rng.normal(size=(n, dim)) * spectrum for n in (count, 15))
    queries[:5] = references[rng.integers(0, count, 5)] + rng.normal(size=(5, dim)) * 1e-6
    check(queries, references, min(3, count))


@pytest.mark.parametrize(
    ("name", "value"),
    [("QUERIES", 7), ("PRODUCT", 1), ("SPAN", 200), ("BATCH", 5), ("PIECE", 3), ("SCOUTS", 1)],
)
def test_the_sizes_of_blocks_do_not_change_the_result(small, monkeypatch, name, value):
    monkeypatch.setattr(cascade, name, value)
    check(np.concatenate([smooth(10, 60), noise(0, 3)]), smooth(9, 900), 2)
    assert share_left(small) < 1


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_inference_mode_and_a_default_type_of_float64_do_not_change_the_result(small, kind):
    queries, references = smooth(1, 60).astype(kind), smooth(0, 500).astype(kind)
    with torch.inference_mode():
        check(queries, references, 3)
    torch.set_default_dtype(torch.float64)
    try:
        check(queries, references, 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert share_left(small) == 0


def test_the_number_of_threads_does_not_change_the_result(monkeypatch):
    monkeypatch.setattr(cascade, "QUERIES", 16)
    rng = np.random.default_rng(7)
    references, queries = (smooth(seed, 900) + rng.random((900, 3, 16, 16)) for seed in (1, 2))
    made, threads = NeighbourIndex.build(references), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(nearest_neighbours(queries[:100], references, 4, index=made))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].indices, other.indices)
        np.testing.assert_array_equal(results[0].distances, other.distances)


def test_a_large_search_builds_an_index_in_passing_and_a_small_one_does_not(small, monkeypatch):
    references, queries = smooth(17, 1000), smooth(18, 520)
    plain = nearest_neighbours(queries, references, 2)
    assert small == []
    monkeypatch.setattr(cascade, "WORTH", 1)
    seen: list[tuple[float, float]] = []
    found = nearest_neighbours(
        queries, references, 2, progress=lambda done, total, note="": seen.append((done, total))
    )
    assert share_left(small) == 0
    np.testing.assert_array_equal(found.indices, plain.indices)
    np.testing.assert_array_equal(found.distances, plain.distances)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (520_000, 520_000)


def test_no_index_is_built_in_passing_where_no_directions_are_leading(small, monkeypatch):
    monkeypatch.setattr(cascade, "WORTH", 1)
    monkeypatch.setattr(cascade, "USELESS", 0.1)
    found = nearest_neighbours(noise(0, 520), noise(1, 1000), 1)
    assert small == []
    np.testing.assert_array_equal(found.indices[:20], brute(noise(0, 520)[:20], noise(1, 1000), 1)[1])


def test_progress_reaches_the_total_when_queries_are_left_to_the_full_product(monkeypatch):
    monkeypatch.setattr(cascade, "QUERIES", 20)
    monkeypatch.setattr(cascade, "REST", 30)
    references, queries = noise(1, 500), noise(0, 90)
    seen: list[tuple[float, float]] = []
    nearest_neighbours(
        queries,
        references,
        index=NeighbourIndex.build(references),
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (45_000, 45_000)


def test_the_index_of_other_references_is_refused():
    made = NeighbourIndex.build(smooth(0, 300))
    for other in (
        smooth(1, 300),
        smooth(0, 300)[:299],
        smooth(0, 300).astype(np.float32),
        smooth(0, 300)[:, :1],
    ):
        with pytest.raises(UserError, match="not of these"):
            nearest_neighbours(other[:2], other, index=made)


def test_values_that_are_not_finite_are_refused():
    references = smooth(0, 300).astype(np.float32)
    queries = references[:3].copy()
    queries[1, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="queries hold values that are not finite"):
        nearest_neighbours(queries, references, index=NeighbourIndex.build(references))
    references[200, 0, 0, 0] = np.inf
    with pytest.raises(UserError, match="references hold values that are not finite"):
        NeighbourIndex.build(references)
