import errno
import json
import os
import zipfile
from dataclasses import replace

import datasets
import numpy as np
import pytest
import webdataset
from data_builders import image_set, image_sets
from hypothesis import given, settings

from diffmem.data import open_images, write_images
from diffmem.data.formats import png
from diffmem.data.formats.npy import meta_path
from diffmem.errors import DiffmemError, UserError


@pytest.mark.parametrize("ending", [".zip", ".npz", ".npy"])
@settings(max_examples=60)
@given(images=image_sets())
def test_what_is_written_reads_back_the_same(tmp_path_factory, ending, images):
    path = tmp_path_factory.getbasetemp() / f"round{ending}"
    write_images(images, path)
    read = open_images(path)
    assert read.fingerprint == images.fingerprint
    assert (read.names, read.class_names, read.captions) == (
        images.names,
        images.class_names,
        images.captions,
    )
    assert read.history[:-1] == images.history


@pytest.mark.parametrize("ending", [".zip", ".npz", ".npy"])
def test_the_same_set_gives_the_same_bytes(tmp_path, ending):
    a, b = tmp_path / f"a{ending}", tmp_path / f"b{ending}"
    write_images(image_set(), a)
    write_images(image_set(), b)
    assert a.read_bytes() == b.read_bytes()
    if ending == ".npy":
        assert meta_path(a).read_bytes() == meta_path(b).read_bytes()


def test_the_zip_is_the_layout_that_edm_reads(tmp_path):
    path = tmp_path / "a.zip"
    write_images(image_set(3, (3, 4, 5)), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [*(f"00000/img0000000{k}.png" for k in range(3)), "dataset.json"]
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
    assert labels == {f"00000/img0000000{k}.png": k for k in range(3)}


def test_the_npz_is_read_by_numpy_alone(tmp_path):
    images = image_set(3, (3, 4, 5))
    write_images(images, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["images"], images.images)
        assert archive["labels"].tolist() == [0, 1, 2]
        assert archive["names"].tolist() == list(images.names)


def test_a_thousand_images_fill_a_folder_of_the_zip(tmp_path):
    write_images(image_set(1001, (1, 1, 1)), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist()[999:1001] == ["00000/img00000999.png", "00001/img00001000.png"]


def test_an_existing_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "a.zip"
    path.write_text("old")
    write_images(image_set(), path)
    assert open_images(path).fingerprint == image_set().fingerprint
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.json", "a.png"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=name):
        write_images(image_set(), tmp_path / name)


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(UserError, match="folder"):
        write_images(image_set(), tmp_path / "a.zip")


def test_the_npy_is_read_by_numpy_alone(tmp_path):
    images = image_set(3, (3, 4, 5))
    write_images(images, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), images.images)
    with np.load(tmp_path / "a.meta.npz", allow_pickle=False) as meta:
        assert meta["labels"].tolist() == [0, 1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.meta.npz", "a.npy"]


def test_a_mapped_set_can_be_written_over_its_own_file(tmp_path):
    path = tmp_path / "a.npy"
    write_images(image_set(), path)
    images = open_images(path)
    write_images(images.take([3, 1], "two"), path)
    assert open_images(path).names == ("image 3", "image 1")
    assert images.fingerprint == image_set().fingerprint


def test_a_write_that_fails_leaves_no_images_with_labels_of_others(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    write_images(image_set(seed=0), path)
    old = path.read_bytes()

    def fail(self, target):
        if target == path:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    rename = type(path).replace
    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(DiffmemError, match="No space left"):
        write_images(image_set(seed=1), path)
    assert path.read_bytes() == old
    with pytest.raises(UserError, match="other images"):
        open_images(path)


def test_images_are_written_a_part_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("diffmem.data.storage.parts.__defaults__", (1,))
    done = []
    images = image_set(7)
    write_images(images, tmp_path / "a.npy", lambda *told: done.append(told[:2]))
    assert done == [(count, 7) for count in range(1, 8)]
    assert open_images(tmp_path / "a.npy").fingerprint == images.fingerprint


@pytest.mark.parametrize("name", ["set", "a.tar", "a-{00..03}.tar"])
@settings(max_examples=30)
@given(images=image_sets())
def test_what_others_read_reads_back_with_the_same_fingerprint(tmp_path_factory, name, images):
    path = tmp_path_factory.mktemp("round") / name
    if len(images) < 4 and "{" in name:
        with pytest.raises(UserError, match="name fewer"):
            write_images(images, path)
        return
    write_images(images, path)
    read = open_images(path)
    assert read.fingerprint == images.fingerprint
    assert read.class_names == images.class_names
    assert read.captions == (
        images.captions if any(word is not None for word in images.captions or ()) else None
    )
    assert read.history[: len(images.history)] == images.history


def test_the_tar_is_read_by_webdataset_itself(tmp_path):
    images = replace(image_set(3, (3, 4, 5)), captions=("a", "b", "ü"))
    write_images(images, tmp_path / "a.tar")
    rows = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("rgb8"))
    assert [(row["cls"], row["txt"]) for row in rows] == [(0, "a"), (1, "b"), (2, "ü")]
    for row, planes in zip(rows, images.images, strict=True):
        np.testing.assert_array_equal(row["png"], planes.transpose(1, 2, 0))


def test_the_folder_is_read_by_datasets_itself(tmp_path):
    images = replace(image_set(3, (3, 4, 5)), captions=("a", None, "ü"))
    write_images(images, tmp_path / "set")
    datasets.disable_progress_bars()
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "c")
    )
    assert [(row["label"], row["text"]) for row in rows] == [(0, "a"), (1, None), (2, "ü")]
    for row, planes in zip(rows, images.images, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), planes.transpose(1, 2, 0))


def test_a_folder_that_is_there_is_never_written_into(tmp_path):
    (tmp_path / "set").mkdir()
    write_images(image_set(), tmp_path / "set")
    with pytest.raises(UserError, match="is there already"):
        write_images(image_set(), tmp_path / "set")


@pytest.mark.parametrize("ending", [".zip", ".npz", ".npy", ".tar", ""])
def test_a_disk_that_fills_up_while_a_set_is_written_is_told_in_one_line_and_nothing_is_left(
    tmp_path, monkeypatch, ending
):
    images, encode = image_set(700), png.encode_png

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def late(pixels):
        return full() if np.array_equal(pixels, images.images[600]) else encode(pixels)

    monkeypatch.setattr("diffmem.data.write.encode_png", late)
    monkeypatch.setattr("diffmem.data.write_members.encode_png", late)
    monkeypatch.setattr(np.lib.format, "write_array", full)
    folder = tmp_path / "sets"
    folder.mkdir()
    with pytest.raises(
        DiffmemError, match=r"^Cannot write .*one.*No space left on device.*No (file|folder) was made.*space"
    ):
        write_images(images, folder / f"one{ending}")
    assert list(folder.iterdir()) == []
