"""Searches in pieces, which find what one search finds."""

import numpy as np
import pytest
from parameters import slow
from spread_tools import killing, pixels, split_all

from diffmem.api.spreading import PoolSpread
from diffmem.data import open_images
from diffmem.errors import DiffmemError
from diffmem.executors.open import InlinePool, LocalPool
from diffmem.memorization import nearest_neighbours
from diffmem.memorization.neighbours import shards
from diffmem.memorization.neighbours.near import pairs_within
from diffmem.spread import spreading


def searched(pool, folder, queries, references, **options):
    place = PoolSpread("cpu", folder, None)
    with pool, spreading(place):
        place.use(pool)
        return nearest_neighbours(queries, references, **options)


@pytest.fixture
def small(monkeypatch):
    split_all(monkeypatch)


@pytest.mark.parametrize("workers", [1, slow(3), slow(8)])
def test_neighbours_in_shards_are_those_of_one_search(workers, tmp_path, small):
    queries, references = pixels(70, 1), pixels(330, 2)
    np.save(tmp_path / "all.npy", references)
    mapped = open_images(tmp_path / "all.npy").images[11:]
    pool = InlinePool() if workers == 1 else LocalPool(workers, threads=1)
    expected = nearest_neighbours(queries, references[11:], 60)  # more than a shard has
    found = searched(pool, tmp_path / "s", queries, mapped, k=60)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert not list((tmp_path / "s").glob("references-*"))  # they are read from where they lie
    assert (np.diff(expected.distances, axis=1) == 0).any()  # or ties were not tried


@pytest.mark.slow
def test_neighbours_are_the_same_where_a_worker_is_killed(tmp_path, small):
    queries, references = pixels(70, 1), pixels(330, 2)
    progress, victims = killing()
    found = searched(LocalPool(2, threads=1), tmp_path / "s", queries, references, k=5, progress=progress)
    expected = nearest_neighbours(queries, references, 5)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert victims
    # A killed worker leaves the file that it was writing; `spread_over` removes the folder.
    assert {path.name.partition("-")[0] for path in (tmp_path / "s").glob("[!.]*")} == {"references"}


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_in_memory_are_compared_in_shards_to_the_last_bit(metric, tmp_path, small):
    rng = np.random.default_rng(3)
    queries, references = (rng.standard_normal((count, 31)).astype(np.float32) for count in (25, 2000))
    expected = nearest_neighbours(queries, references, 4, metric=metric)
    found = searched(InlinePool(), tmp_path / "s", queries, references, k=4, metric=metric)
    np.testing.assert_array_equal(found.distances, expected.distances)
    np.testing.assert_array_equal(found.indices, expected.indices)


def test_an_index_of_each_shard_is_made_once_and_changes_nothing(tmp_path, small, monkeypatch):
    monkeypatch.setattr(shards, "FOR_INDEX", 30)
    monkeypatch.setattr(shards, "index_helps", lambda images, device: True)
    references, folder = pixels(330, 2), tmp_path / "s"
    place = PoolSpread("cpu", folder, None)
    place.use(InlinePool())
    for queries, files in ((pixels(20, 1), 0), (pixels(70, 1), 7), (pixels(60, 3), 7)):
        with spreading(place):
            found = nearest_neighbours(queries, references, 4)
        expected = nearest_neighbours(queries, references, 4)
        np.testing.assert_array_equal(found.distances, expected.distances)
        np.testing.assert_array_equal(found.indices, expected.indices)
        assert len(list(folder.glob("index-*"))) == files


def test_a_file_that_was_replaced_after_it_was_opened_is_refused(tmp_path, small):
    references = pixels(330, 2)
    np.save(tmp_path / "all.npy", references)
    mapped = open_images(tmp_path / "all.npy").images
    np.save(tmp_path / "new.npy", 255 - references)
    (tmp_path / "new.npy").replace(tmp_path / "all.npy")
    with pytest.raises(DiffmemError, match="holds other images"):
        searched(InlinePool(), tmp_path / "s", pixels(20, 1), mapped)


def test_a_small_search_is_done_here(tmp_path):
    place = PoolSpread("cpu", tmp_path / "s", None)  # without a pool: nothing can be asked of it
    with spreading(place):
        nearest_neighbours(pixels(20, 1), pixels(100, 2))


@pytest.mark.parametrize("images", [20, 40, 90, 330])
def test_near_pairs_in_shards_are_those_of_one_search(images, tmp_path, small):
    several = pixels(images, 6)
    expected = pairs_within(several, 11.1)
    place = PoolSpread("cpu", tmp_path, None)
    place.use(InlinePool())
    with spreading(place):
        found = pairs_within(several, 11.1)
    np.testing.assert_array_equal(found.pairs, expected.pairs)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert 0 < len(expected) < images**2 / 4
