import tempfile

import numpy as np
import pytest
from data_builders import encoded, image_set, write_zip

from diffmem.data import grayscale, mixture, open_images, resize, rgb
from diffmem.data.shares import duplicated
from diffmem.data.storage import (
    contiguous,
    gather,
    in_memory_limit,
    is_mapped,
    little_memory,
    new_images,
    parts,
)
from diffmem.errors import DiffmemError


@pytest.fixture
def small(monkeypatch):
    """A machine on which nothing fits the memory."""
    monkeypatch.setattr("diffmem.data.storage.in_memory_limit", lambda: 0)


@pytest.fixture
def mapped(tmp_path):
    np.save(tmp_path / "a.npy", image_set(10).images)
    return np.load(tmp_path / "a.npy", mmap_mode="r")


def test_the_limit_is_a_quarter_of_what_a_container_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr("diffmem.data.storage._GROUP_LIMIT", tmp_path / "memory.max")
    whole = in_memory_limit()
    (tmp_path / "memory.max").write_text("max\n")
    assert in_memory_limit() == whole
    (tmp_path / "memory.max").write_text("4000\n")
    assert in_memory_limit() == 1000


def test_little_memory_maps_what_would_fit_into_memory_while_there_is_space_on_disk(monkeypatch):
    monkeypatch.setattr("diffmem.data.storage._BUILD_BYTES", 99)
    with little_memory():
        assert is_mapped(new_images((10, 10)))
        assert not is_mapped(new_images((9, 11)))
        monkeypatch.setattr("diffmem.data.storage.reserve", full_disk)
        assert not is_mapped(new_images((10, 10)))
    assert not is_mapped(new_images((10, 10)))


def full_disk(stream, size):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("count", "item", "part", "sizes"), [(10, 3, 9, [3, 3, 3, 1]), (2, 10, 1, [1, 1]), (0, 1, 1, [])]
)
def test_parts_cover_all_in_order(count, item, part, sizes):
    slices = list(parts(count, item, part))
    assert [one.stop - one.start for one in slices] == sizes
    assert [index for one in slices for index in range(count)[one]] == list(range(count))


def test_views_of_a_map_are_mapped_and_copies_are_not(mapped):
    assert is_mapped(mapped)
    assert is_mapped(np.asarray(mapped)[3:, 0])
    assert not is_mapped(mapped.copy())
    assert not is_mapped(image_set().images)


def test_neighbours_in_a_map_stay_in_it(mapped):
    part = gather(mapped, np.arange(2, 6))
    assert np.shares_memory(part, mapped)
    np.testing.assert_array_equal(part, mapped[2:6])


@pytest.mark.parametrize("chosen", [[3, 2, 1, 0], [0, 2, 2, 3], [0, 0, 3, 3], [1, 5]])
def test_other_choices_are_copied(mapped, chosen):
    part = gather(mapped, np.array(chosen))
    assert not np.shares_memory(part, mapped)
    assert not part.flags.writeable
    np.testing.assert_array_equal(part, np.array(mapped)[chosen])


def test_many_images_of_a_map_are_copied_into_another_map_and_of_an_array_into_memory(mapped, monkeypatch):
    monkeypatch.setattr("diffmem.data.storage._SUBSET_BYTES", 1)
    chosen = np.array([3, 0])
    some = gather(mapped, chosen)
    assert is_mapped(some)
    np.testing.assert_array_equal(some, mapped[chosen])
    assert not is_mapped(gather(np.array(mapped), chosen))


def test_what_does_not_fit_the_memory_is_mapped_and_equal(small, mapped):
    for made in (gather(mapped, np.array([4, 1, 1])), contiguous(mapped.transpose(0, 2, 3, 1))):
        assert is_mapped(made)
        assert made.flags.c_contiguous
        assert not made.flags.writeable
    np.testing.assert_array_equal(
        contiguous(mapped.transpose(0, 2, 3, 1)), image_set(10).images.transpose(0, 2, 3, 1)
    )


def test_every_operation_gives_the_same_set_on_disk_as_in_memory(tmp_path, monkeypatch):
    path = write_zip(
        tmp_path / "a.zip",
        {f"{k}.png": encoded(np.full((4, 4) if k < 2 else (4, 4, 3), k, np.uint8)) for k in range(4)},
    )

    def made():
        images = image_set(9, (3, 4, 6))
        yield open_images(path)
        yield from (grayscale(images), rgb(grayscale(images)), resize(images, 4), resize(images, 3))
        yield mixture(images, image_set(9, (3, 4, 6), seed=1), 9, 0.4)
        yield from (duplicated(images, 0.5, 3, 0), images.take([4, 2], "two"))

    expected = [images.fingerprint for images in made()]
    monkeypatch.setattr("diffmem.data.storage.in_memory_limit", lambda: 0)
    found = list(made())
    assert all(is_mapped(images.images) for images in found)
    assert [images.fingerprint for images in found] == expected


def test_a_folder_that_is_too_small_is_told_with_the_remedy(small, monkeypatch):
    def full(stream, size):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffmem.data.storage.reserve", full)
    with pytest.raises(DiffmemError, match=r"No space left on device.*TMPDIR"):
        new_images((2, 1, 2, 2))


def test_space_is_reserved_where_the_system_has_no_call_for_it(small, monkeypatch):
    monkeypatch.delattr("os.posix_fallocate")
    images = new_images((3, 1, 1024, 1024))
    assert is_mapped(images)
    images[2] = 7
    assert images[2].min() == 7


def test_nothing_is_left_in_the_folder_for_temporary_files(small, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images = new_images((3, 1, 2, 2))
    assert is_mapped(images)
    assert list(tmp_path.iterdir()) == []
