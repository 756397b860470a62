"""The search by integer products equals brute force, whatever the blocks, threads and instructions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parameters import these

from diffmem import integers
from diffmem.integers import IntegerProducts, integer_products
from diffmem.memorization.neighbours import dense
from diffmem.memorization.neighbours.dense import dense_fits, dense_pays, dense_search, full_search
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
from diffmem.memorization.neighbours.rows import Rows

CPU = torch.device("cpu")
EMULATED = IntegerProducts(8, False)


@pytest.fixture(autouse=True)
def exact_everywhere(monkeypatch):
    """Without instructions for full bytes, compute the products by float32: the search is the same."""
    if integer_products().bits != 8:
        monkeypatch.setattr(dense, "integer_products", lambda device="cpu": EMULATED)


def brute(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    q, r = (x.reshape(len(x), -1).astype(np.int64) for x in (queries, references))
    squares = np.stack([np.square(r - row).sum(1) for row in q])
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(squares, order, 1).astype(float), order


def found_by(
    queries: np.ndarray, references: np.ndarray, k: int, block_bytes: int = 76 << 20, way=dense_search
):
    return way(Rows(queries, "queries"), Rows(references, "references"), k, CPU, block_bytes, lambda *_: None)


def check(queries: np.ndarray, references: np.ndarray, k: int, **options) -> None:
    squares, indices = found_by(queries, references, k, **options)
    expected, order = brute(queries, references, k)
    np.testing.assert_array_equal(squares, expected)
    np.testing.assert_array_equal(indices, order)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@settings(max_examples=80)
@given(data=st.data())
def test_neighbours_equal_brute_force_for_all_sizes_of_blocks_and_numbers_of_threads(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dim, count = data.draw(st.integers(1, 50)), data.draw(st.integers(1, 400))
    levels = np.array(
        data.draw(st.sampled_from([[0, 255], [0, 1, 2], [0, 127, 128, 255], list(range(256))])), np.uint8
    )
    references = rng.choice(levels, (count, dim))
    references[rng.integers(0, count, count // 4)] = references[0]
    same = data.draw(st.booleans())
    queries = references if same else rng.choice(levels, (data.draw(st.integers(1, 150)), dim))
    k = data.draw(st.integers(1, min(51, count)))
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "ROWS", data.draw(st.sampled_from([32, 64, 4096])))
        patch.setattr(dense, "WIDTH", data.draw(st.sampled_from([32, 64, 512])))
        patch.setattr(dense, "GROUP_BYTES", data.draw(st.sampled_from([1, 5000, 16 << 20])))
        patch.setattr(dense, "FEWEST", data.draw(st.sampled_from([32, 256])))
        patch.setattr(dense, "HITS", data.draw(st.sampled_from([3, 1 << 13])))
        try:
            torch.set_num_threads(data.draw(st.sampled_from([1, 3])))
            check(queries, references, k, block_bytes=data.draw(st.sampled_from([1, 76 << 20])))
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("k", [1, 2, 51])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_extreme_images_are_compared_exactly(k, level):
    rng = np.random.default_rng(k)
    references = rng.choice(np.array([0, 255], np.uint8), (200, 3072))
    references[::3], references[1::6] = 0, 255
    queries = np.concatenate([np.full((1, 3072), level, np.uint8), references[5:20], 255 - references[20:30]])
    check(queries, references, k)


@pytest.mark.parametrize("dim", [43_919, 43_920, 70_000])
def test_sums_at_and_beyond_the_end_of_int32_are_exact(dim):
    references = np.zeros((70, dim), np.uint8)
    references[1::2] = 255
    references[10:60] = noise(0, 50, dim)
    check(np.stack([references[0], references[1], references[11]]), references, 3)
    check(references, references, 2)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 700])
def test_all_references_can_be_asked_for(count):
    references = noise(0, count, 12)
    check(noise(1, 5, 12), references, count)
    check(references, references, count)


def test_identical_references_come_in_order_of_index_wherever_they_lie(monkeypatch):
    monkeypatch.setattr(dense, "ROWS", 64)
    monkeypatch.setattr(dense, "WIDTH", 32)
    references = np.tile(noise(2, 1, 40), (700, 1))
    squares, indices = found_by(references, references, 4)
    assert (squares == 0).all()
    assert (indices == np.arange(4)).all()


def test_references_that_come_nearer_and_nearer_equal_brute_force(monkeypatch):
    monkeypatch.setattr(dense, "ROWS", 32)
    references = np.repeat(np.arange(255, -1, -1, dtype=np.uint8), 3)[:, None].repeat(9, 1)
    check(np.zeros((3, 9), np.uint8), references, 7)


def test_a_memory_map_and_a_view_are_searched_as_they_are(tmp_path: Path):
    np.save(tmp_path / "references.npy", noise(3, 300, 4, 4, 3))
    mapped = np.load(tmp_path / "references.npy", mmap_mode="r")
    check(noise(4, 20, 4, 4, 3), mapped, 3)
    check(mapped, mapped, 3)
    check(noise(4, 20, 3, 4, 4), mapped.transpose(0, 3, 1, 2)[::2], 3)


def test_norms_that_another_thread_is_still_writing_are_not_read():
    images = Rows(noise(0, 300, 8), "images")
    searching = dense._Search(images, images, 2, CPU, 76 << 20)
    searching.norms[-1] = int(np.square(images.images[-1].numpy().astype(int) - 128).sum())
    squares, indices = searching.run(lambda *_: None)
    expected, order = brute(images.images.numpy(), images.images.numpy(), 2)
    np.testing.assert_array_equal(squares, expected)
    np.testing.assert_array_equal(indices, order)


@pytest.mark.parametrize("threads", [1, 2])
def test_inference_mode_and_other_default_types_change_nothing(threads):
    queries, references = noise(0, 40, 300), noise(1, 700, 300)
    expected = brute(queries, references, 3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        with torch.inference_mode():
            inferred = found_by(queries, references, 3)
        torch.set_default_dtype(torch.float64)
        assert dense._gain.__wrapped__(100) > 0
        doubled = found_by(queries, references, 3)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(before)
    for found in (inferred, doubled):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_default_device_of_tensors_elsewhere_changes_nothing():
    torch.set_default_device("meta")
    try:
        assert integers._probed.__wrapped__("cpu").bits in (7, 8)
        assert dense._gain.__wrapped__(100) > 0
        check(noise(0, 40, 30), noise(1, 300, 30), 3)
        check(noise(0, 40, 30).astype(np.float32), noise(1, 300, 30), 3, way=full_search)
    finally:
        torch.set_default_device(None)


def test_no_queries_have_no_neighbours():
    squares, indices = found_by(np.empty((0, 7), np.uint8), noise(0, 9, 7), 2)
    assert squares.shape == indices.shape == (0, 2)


def test_among_themselves_images_take_little_more_than_half_of_the_products(monkeypatch):
    monkeypatch.setattr(dense, "ROWS", 64)
    monkeypatch.setattr(dense, "WIDTH", 32)
    monkeypatch.setattr(dense, "DIAGONAL", 1)
    computed = []

    def counted(left, right, out=None):
        computed.append(len(left) * right.shape[1])
        return EMULATED(left, right, out)

    counted.bits, counted.native = 8, True
    monkeypatch.setattr(dense, "integer_products", lambda device: counted)
    images = noise(0, 1024, 30)
    check(images, images, 3)
    alone = sum(computed)
    computed.clear()
    check(images, images.copy(), 3)
    assert alone < 0.6 * sum(computed)


def test_progress_grows_to_the_number_of_pairs(monkeypatch):
    monkeypatch.setattr(dense, "ROWS", 64)
    monkeypatch.setattr(dense, "WIDTH", 32)
    images = Rows(noise(0, 301, 5), "images")
    for queries in (images, images.part(0, 70)):
        seen: list[tuple[float, float]] = []
        dense_search(
            queries,
            images,
            2,
            CPU,
            76 << 20,
            lambda done, total, note="", seen=seen: seen.append((done, total)),
        )
        assert len(seen) > 3
        assert seen == sorted(seen)
        assert seen[-1] == (301 * len(queries), 301 * len(queries))


def test_only_bytes_are_searched_by_integers_and_only_with_products_of_full_bytes(monkeypatch):
    images, floats = Rows(noise(0, 30, 5), "images"), Rows(noise(0, 30, 5).astype(float), "floats")
    for products, fits in (
        (IntegerProducts(8, True), True),
        (IntegerProducts(7, True), False),
        (IntegerProducts(8, False), False),
    ):
        monkeypatch.setattr(dense, "integer_products", lambda device, products=products: products)
        assert dense_fits(images, images, CPU) == fits
        assert not dense_fits(images, floats, CPU)
        assert not dense_fits(floats, images, CPU)


def test_an_index_pays_only_where_integer_products_are_not_much_faster(monkeypatch):
    large = (10**6, 50_000, 3072)
    monkeypatch.setattr(dense, "_gain", lambda dim: 12.0)
    assert dense_pays(*large, 2)
    assert dense_pays(*large, 2, built=True)
    monkeypatch.setattr(dense, "_gain", lambda dim: 4.0)
    assert dense_pays(1000, 50_000, 3072, 2)
    assert not dense_pays(1000, 50_000, 3072, 2, built=True)
    assert dense_pays(1000, 5000, 3072, 2, built=True)
    assert not dense_pays(*large, 2)
    assert dense_pays(*large, 51)


def test_floats_are_left_to_the_search_with_bounds():
    queries, references = noise(0, 9, 40), noise(1, 90, 40)
    rows = Rows(queries.astype(np.float32), "queries"), Rows(references.astype(np.float32), "references")
    squares, indices = full_search(*rows, 2, CPU, 76 << 20, lambda *_: None)
    expected, order = brute(queries, references, 2)
    np.testing.assert_array_equal(squares, expected)
    np.testing.assert_array_equal(indices, order)


SEARCH = """
import hashlib
import numpy as np
from diffmem.memorization.neighbours.neighbours import nearest_neighbours
rng = np.random.default_rng(0)
images = rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (700, 3, 8, 8))
images[100:200], images[300:303], images[400:403] = images[:100] ^ 1, 0, 255
digest = hashlib.sha256()
for queries, k in ((images, 2), (images[:50].copy(), 51)):
    found = nearest_neighbours(queries, images, k)
    digest.update(found.distances.tobytes() + found.indices.tobytes())
print(digest.hexdigest())
"""


def digest_with(isa: str) -> str:
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", SEARCH], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("isa", these(("AVX2", "AVX2_VNNI", "AVX512_CORE_VNNI"), "AVX2"))
def test_every_set_of_instructions_gives_the_same_neighbours_to_the_last_bit(isa):
    told = []
    exec(SEARCH, {"print": told.append})  # here, with what the processor can
    assert digest_with(isa).split() == told


def test_the_public_search_of_bytes_is_that_of_floats_bit_for_bit():
    queries, references = noise(0, 30, 3, 8, 8), noise(1, 500, 3, 8, 8)
    whole = nearest_neighbours(queries, references, 5)
    floats = nearest_neighbours(queries.astype(np.float64), references.astype(np.float64), 5)
    np.testing.assert_array_equal(whole.indices, floats.indices)
    np.testing.assert_array_equal(whole.distances, floats.distances)
