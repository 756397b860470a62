from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from diffmem.errors import DiffmemError, UserError
from diffmem.memorization.neighbours import search
from diffmem.memorization.neighbours.neighbours import Neighbours, nearest_neighbours


def oracle(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All distances by direct differences in float64; a stable sort breaks ties by index."""
    dim = references[0].size
    q, r = queries.reshape(-1, dim).astype(np.float64), references.reshape(-1, dim).astype(np.float64)
    squares = np.stack([np.square(r - row).sum(1) for row in q]) if len(q) else np.empty((0, len(r)))
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.sqrt(np.take_along_axis(squares, order, 1)), order


def check(queries: np.ndarray, references: np.ndarray, k: int, **options) -> None:
    found = nearest_neighbours(queries, references, k, **options)
    distances, indices = oracle(queries, references, k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, distances)


def images(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_uint8_neighbours_equal_brute_force(k):
    check(images(0, 40, 3, 8, 8), images(1, 500, 3, 8, 8), k)


@settings(max_examples=60)
@given(data=st.data())
def test_few_grey_levels_with_many_ties_equal_brute_force(data):
    dim = data.draw(st.integers(1, 6))
    few = st.integers(0, 2)
    references = data.draw(hnp.arrays(np.uint8, (data.draw(st.integers(1, 60)), dim), elements=few))
    queries = data.draw(hnp.arrays(np.uint8, (data.draw(st.integers(0, 6)), dim), elements=few))
    k = data.draw(st.integers(1, len(references)))
    check(queries, references, k, block_bytes=data.draw(st.sampled_from([1, 300, 5000, 1 << 20])))


@pytest.mark.parametrize("level", [0, 255])
def test_high_contrast_images_that_float32_cannot_sum_exactly_equal_brute_force(level):
    # |r|^2 is near 3072 * 127^2 = 5e7, above 2^24: float32 products round, and neighbours differ by single
    # grey levels.
    rng = np.random.default_rng(level)
    base = rng.choice(np.array([0, 255], dtype=np.uint8), 3072)
    references = np.tile(base, (600, 1))
    for row in references:
        row[rng.integers(0, 3072, 3)] ^= np.uint8(rng.integers(1, 4))
    references[300:] = rng.choice(np.array([0, 255], dtype=np.uint8), (300, 3072))
    queries = np.stack([base, references[5], np.full(3072, level, dtype=np.uint8)])
    check(queries, references, 5)


def test_identical_references_come_in_order_of_index():
    references = np.tile(images(2, 1, 3072), (3000, 1))
    found = nearest_neighbours(images(3, 5, 3072), references, 3)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2]] * 5)
    assert (found.distances == found.distances[:, :1]).all()


def test_more_ties_than_may_wait_are_decided_in_parts(monkeypatch):
    monkeypatch.setattr(search, "PENDING", 64)
    references = np.tile(images(2, 2, 3072), (300, 1))
    check(images(3, 4, 3072), references, 3)


def test_exact_copies_have_distance_zero():  # trap: cdist by a matrix product is off by up to 0.07 grey levels RMS
    references = images(4, 300, 3, 16, 16)
    found = nearest_neighbours(references[50:90], references, 2)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(50, 90))
    assert (found.distances[:, 0] == 0).all()
    assert (found.distances[:, 1] > 0).all()


@pytest.mark.parametrize("block_bytes", [4000, 40_000, 300_000, 3_000_000])
@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
def test_the_block_size_does_not_change_the_result(block_bytes, kind):
    queries, references = images(5, 30, 100), images(6, 400, 100)
    if kind != "uint8":
        queries, references = (np.sin(x.astype(np.float64)).astype(kind) for x in (queries, references))
    whole = nearest_neighbours(queries, references, 3)
    blocks = nearest_neighbours(queries, references, 3, block_bytes=block_bytes)
    np.testing.assert_array_equal(whole.indices, blocks.indices)
    np.testing.assert_array_equal(whole.distances, blocks.distances)


def test_the_number_of_threads_does_not_change_the_result():
    rng = np.random.default_rng(7)
    queries, references = rng.normal(size=(50, 300)), rng.normal(size=(700, 300))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(nearest_neighbours(queries, references, 4))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].indices, other.indices)
        np.testing.assert_array_equal(results[0].distances, other.distances)


def test_a_permutation_of_the_references_permutes_the_indices():
    queries, references = images(8, 20, 64), images(9, 200, 64)
    order = np.random.default_rng(0).permutation(200)
    straight = nearest_neighbours(queries, references, 3)
    permuted = nearest_neighbours(queries, references[order], 3)
    np.testing.assert_array_equal(order[permuted.indices], straight.indices)
    np.testing.assert_array_equal(permuted.distances, straight.distances)


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_floating_point_neighbours_of_any_scale_equal_brute_force(scale, offset):
    rng = np.random.default_rng(10)
    queries = scale * (rng.normal(size=(20, 50)) + offset)
    references = scale * (rng.normal(size=(300, 50)) + offset)
    found = nearest_neighbours(queries, references, 3)
    distances, indices = oracle(queries, references, 3)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-12)


def test_float_neighbours_that_differ_below_float32_resolution_are_told_apart():
    base = np.random.default_rng(11).normal(size=200)
    references = base + 1e-9 * np.arange(40, 0, -1)[:, None] * np.ones(200)
    found = nearest_neighbours(base[None], references, 3)
    np.testing.assert_array_equal(found.indices, [[39, 38, 37]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_torch_tensors_and_half_precision_are_accepted(dtype):
    queries = torch.from_numpy(images(12, 10, 3, 4, 4)).to(dtype)
    references = torch.from_numpy(images(13, 90, 3, 4, 4)).to(dtype)
    found = nearest_neighbours(queries, references, 2)
    distances, indices = oracle(queries.double().numpy(), references.double().numpy(), 2)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, distances)


def test_uint8_queries_can_be_compared_with_float_references():
    queries, references = images(14, 10, 48), images(15, 90, 48).astype(np.float32)
    distances, indices = oracle(queries, references, 2)
    found = nearest_neighbours(queries, references, 2)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_array_equal(found.distances, distances)


def test_views_and_read_only_memory_maps_are_accepted(tmp_path: Path):
    references = images(16, 90, 4, 4, 3)
    np.save(tmp_path / "references.npy", references)
    mapped = np.load(tmp_path / "references.npy", mmap_mode="r").transpose(0, 3, 1, 2)
    check(images(17, 9, 3, 4, 4), mapped, 2)
    check(images(17, 9, 3, 4, 4)[::-1], mapped[::-2], 2)


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_the_users_choice_of_matmul_precision_neither_matters_nor_changes(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        check(images(18, 10, 300), images(19, 200, 300), 2)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_progress_grows_to_the_total():
    seen: list[tuple[float, float]] = []
    nearest_neighbours(
        images(20, 50, 64),
        images(21, 300, 64),
        2,
        block_bytes=30_000,
        progress=lambda d, t, note="": seen.append((d, t)),
    )
    done = [d for d, _ in seen]
    assert len(done) > 3
    assert done == sorted(done)
    assert seen[-1] == (50 * 300, 50 * 300)


@pytest.mark.parametrize(
    ("queries", "references", "k", "message"),
    [
        (np.zeros((2, 3), np.uint8), np.zeros((1, 3), np.uint8), 2, r"k = 2 .* there are 1 references"),
        (np.zeros((2, 3), np.uint8), np.zeros((5, 3), np.uint8), 0, r"k = 0"),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros((5, 1, 8, 8), np.uint8), 2, r"\(3, 8, 8\).*\(1, 8, 8\)"),
        (np.zeros((2, 3), np.int64), np.zeros((5, 3), np.uint8), 2, r"queries have type .*int64"),
        (np.zeros((2, 3), np.uint8), np.zeros((5, 3), dtype="U1"), 2, r"references have type"),
        (np.zeros((2, 0), np.uint8), np.zeros((5, 0), np.uint8), 2, r"not empty"),
        (np.zeros((2, 3)), np.full((5, 3), np.nan), 2, r"references hold values that are not finite"),
        (np.full((2, 3), np.inf), np.zeros((5, 3)), 2, r"queries hold values that are not finite"),
        (np.zeros((2, 3)), np.full((5, 3), 1e30) * np.arange(5)[:, None], 2, r"references hold values"),
    ],
)
def test_bad_input_is_refused_with_its_value(queries, references, k, message):
    with pytest.raises(UserError, match=message):
        nearest_neighbours(queries, references, k)


def some_neighbours() -> Neighbours:
    return Neighbours(np.array([[0.0, 1.5], [2.0, 2.0], [1.0, 9.0]]), np.array([[4, 1], [0, 3], [2, 2]]))


def test_saved_neighbours_come_back_equal(tmp_path: Path):
    some_neighbours().save(tmp_path / "folder" / "neighbours.npz")
    back = Neighbours.load(tmp_path / "folder" / "neighbours.npz")
    np.testing.assert_array_equal(back.distances, some_neighbours().distances)
    np.testing.assert_array_equal(back.indices, some_neighbours().indices)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["neighbours.npz"]


def test_a_slice_holds_the_queries_of_its_range():
    part = some_neighbours().slice(1, 3)
    assert len(part) == 2
    assert part.k == 2
    np.testing.assert_array_equal(part.indices, [[0, 3], [2, 2]])


def test_a_missing_or_truncated_file_is_refused(tmp_path: Path):
    path = tmp_path / "neighbours.npz"
    with pytest.raises(DiffmemError, match="not a file of neighbours"):
        Neighbours.load(path)
    some_neighbours().save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(DiffmemError, match="not a file of neighbours"):
            Neighbours.load(path)


def test_a_file_with_a_flipped_byte_is_refused_or_reads_as_before(tmp_path: Path):
    path = tmp_path / "neighbours.npz"
    some_neighbours().save(path)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            back = Neighbours.load(path)
        except DiffmemError:
            refused += 1
            continue
        np.testing.assert_array_equal(back.distances, some_neighbours().distances)
        np.testing.assert_array_equal(back.indices, some_neighbours().indices)
    assert refused > len(whole) // 4


@pytest.mark.parametrize(
    ("distances", "indices"),
    [
        (np.array([[2.0, 1.0]]), np.array([[0, 1]])),
        (np.array([[0.0, np.nan]]), np.array([[0, 1]])),
        (np.array([[0.0, np.inf]]), np.array([[0, 1]])),
        (np.array([[-1.0, 1.0]]), np.array([[0, 1]])),
        (np.array([[0.0, 1.0]]), np.array([[0, -1]])),
        (np.array([[0.0, 1.0]]), np.array([[0]])),
        (np.array([0.0, 1.0]), np.array([0, 1])),
        (np.array([[0.0, 1.0]], dtype=np.float32), np.array([[0, 1]])),
        (np.array([[0.0, 1.0]]), np.array([[0.0, 1.0]])),
        (np.array([[0.0, 1.0]]), np.array([["a", "b"]])),
    ],
)
def test_a_file_with_impossible_neighbours_is_refused(tmp_path: Path, distances, indices):
    np.savez(tmp_path / "bad.npz", distances=distances, indices=indices)
    with pytest.raises(DiffmemError, match="not a file of neighbours"):
        Neighbours.load(tmp_path / "bad.npz")


def test_a_file_without_indices_or_with_pickles_is_refused(tmp_path: Path):
    np.savez(tmp_path / "half.npz", distances=np.zeros((1, 2)))
    np.savez(tmp_path / "pickle.npz", distances=np.zeros((1, 2)), indices=np.array([[{}, {}]], dtype=object))
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("half.npz", "pickle.npz", "array.npy"):
        with pytest.raises(DiffmemError, match="not a file of neighbours"):
            Neighbours.load(tmp_path / name)
