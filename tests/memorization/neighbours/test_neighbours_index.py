from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diffmem.data import ImageSet
from diffmem.errors import DiffmemError, UserError
from diffmem.memorization.neighbours.index import NeighbourIndex, index_for, leaf_order
from diffmem.memorization.neighbours.neighbours import nearest_neighbours


def images(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120, 60, (count, 3, 2, 2)).repeat(4, 2).repeat(4, 3)
    return (coarse + rng.normal(0, 4, coarse.shape)).clip(0, 255).astype(np.uint8)


def same(one: NeighbourIndex, other: NeighbourIndex) -> bool:
    tensors = [(made.centre, made.basis, made.order, *vars(made.sketch).values()) for made in (one, other)]
    settings = [(made.metric, made.kind, made.leaf, made.cuts) for made in (one, other)]
    return settings[0] == settings[1] and all(map(torch.equal, *tensors))


@pytest.mark.parametrize("count", [1, 2, 127, 128, 129, 1000])
def test_every_reference_has_one_place(count):
    made = NeighbourIndex.build(images(0, count))
    assert sorted(made.order[made.order >= 0].tolist()) == list(range(count))
    assert len(made) == count
    assert len(made.order) % made.leaf == 0


def test_leaves_hold_rows_that_are_near_each_other():
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1024, 2, generator=generator)
    leaves = rows[leaf_order(rows, 6)].view(64, 16, 2)
    assert (leaves.amax(1) - leaves.amin(1)).prod(1).mean() < 2 / 64  # of the area of the unit square
    assert (rows[leaf_order(rows, 6)].sort(0).values == rows.sort(0).values).all()


def test_an_index_comes_back_equal_and_gives_the_same_neighbours(tmp_path: Path):
    references, queries = images(0, 2000), images(1, 50)
    made = NeighbourIndex.build(references)
    made.save(tmp_path / "folder" / "neighbours.index", references)
    back = NeighbourIndex.load(tmp_path / "folder" / "neighbours.index", references)
    assert same(made, back)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["neighbours.index"]
    one, other = (nearest_neighbours(queries, references, index=each) for each in (made, back))
    np.testing.assert_array_equal(one.indices, other.indices)


def test_building_is_reproducible_with_any_number_of_threads():
    references, threads = images(0, 3000), torch.get_num_threads()
    try:
        made = []
        for count in (1, 2):
            torch.set_num_threads(count)
            made.append(NeighbourIndex.build(references))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(made[0].basis, made[1].basis)


def test_a_missing_or_truncated_file_is_refused(tmp_path: Path):
    references, path = images(0, 300), tmp_path / "index"
    with pytest.raises(DiffmemError, match=r"index is not a whole index of neighbours.*Delete it"):
        NeighbourIndex.load(path, references)
    NeighbourIndex.build(references).save(path, references)
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DiffmemError, match="Delete it"):
            NeighbourIndex.load(path, references)


def test_a_file_with_a_flipped_byte_is_refused(tmp_path: Path):
    references, path = images(0, 60), tmp_path / "index"
    NeighbourIndex.build(references, directions=4).save(path, references)
    whole = path.read_bytes()
    for position in [*range(0, 700, 7), *range(700, len(whole), 997)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x15]) + whole[position + 1 :])
        with pytest.raises(DiffmemError):
            NeighbourIndex.load(path, references)


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "weights"
    save_file({"weight": torch.zeros(3)}, path)
    before = path.read_bytes()
    for read in (NeighbourIndex.load, lambda path, references: index_for(references, path)):
        with pytest.raises(DiffmemError, match="is not an index of neighbours"):
            read(path, images(0, 30))
    assert path.read_bytes() == before
    path.write_text("my thesis")
    with pytest.raises(DiffmemError, match="Delete it"):
        index_for(images(0, 30), path)
    assert path.read_text() == "my thesis"


def test_the_index_of_references_that_differ_in_one_value_is_refused(tmp_path: Path):
    references = images(0, 300)
    NeighbourIndex.build(references).save(tmp_path / "index", references)
    references[123, 1, 2, 3] ^= 1
    with pytest.raises(DiffmemError, match=r"is the index of other references.*Delete it"):
        NeighbourIndex.load(tmp_path / "index", references)


def test_an_index_is_not_saved_with_other_references(tmp_path: Path):
    with pytest.raises(UserError, match="not of these"):
        NeighbourIndex.build(images(0, 300)).save(tmp_path / "index", images(1, 300))
    assert list(tmp_path.iterdir()) == []


def test_an_index_is_built_once_and_again_when_the_references_change(tmp_path: Path, monkeypatch):
    built = []
    build = NeighbourIndex.build
    monkeypatch.setattr(
        NeighbourIndex, "build", lambda *args, **options: built.append(1) or build(*args, **options)
    )
    path, references = tmp_path / "index", images(0, 300)
    first = index_for(references, path)
    assert same(first, index_for(references, path))
    assert len(built) == 1
    changed = images(1, 300)
    index_for(changed, path)
    assert len(built) == 2
    NeighbourIndex.load(path, changed)
    index_for(changed, path, metric="cosine")
    assert len(built) == 3
    assert same(index_for(changed, None), build(changed))


def test_image_sets_and_arrays_have_the_same_index(tmp_path: Path):
    array = images(0, 200)
    held = ImageSet(array, None, tuple(map(str, range(200))))
    index_for(held, tmp_path / "index")
    assert same(NeighbourIndex.load(tmp_path / "index", array), NeighbourIndex.build(held))


@pytest.mark.slow
def test_very_large_images_have_fewer_directions_and_the_same_neighbours():
    references = np.random.default_rng(0).normal(0, 1, (40, 1)) * np.linspace(0, 1, 600_000, dtype=np.float32)
    references = (100 + 30 * references).clip(0, 255).astype(np.uint8)
    made = NeighbourIndex.build(references)
    assert made.cuts.third == 16
    found = nearest_neighbours(references[:3], references, 1, index=made)
    assert (found.distances == 0).all()


def test_progress_grows_to_the_number_of_references():
    seen: list[tuple[float, float]] = []
    NeighbourIndex.build(images(0, 20_000), lambda done, total, note="": seen.append((done, total)))
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == (20_000, 20_000)


@pytest.mark.parametrize(
    ("references", "options", "message"),
    [
        (np.zeros((0, 3), np.uint8), {}, "no references to index"),
        (np.zeros((3, 3), np.int32), {}, "int32"),
        (np.zeros((3, 3)), {"metric": "cosine"}, r"Row 0 of the references is all zeros"),
        (np.ones((3, 3)), {"metric": "manhattan"}, "'manhattan' is unknown"),
        (np.ones((3, 3)), {"directions": 0}, "directions = 0"),
    ],
)
def test_bad_input_is_refused_with_its_value(references, options, message):
    with pytest.raises(UserError, match=message):
        NeighbourIndex.build(references, **options)
