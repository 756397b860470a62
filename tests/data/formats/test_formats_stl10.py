import numpy as np
import pytest
from data_builders import STL10_CLASSES, stl10_files, write_tar

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
LABELS = [9, 0, 3, 3]
FILES = stl10_files(IMAGES, LABELS)


def folder(path, files):
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def packed(path, files):
    return write_tar(path, {f"stl10_binary/{name}": content for name, content in files.items()})


def test_planes_in_column_major_order_become_rows(tmp_path):
    images = open_images(folder(tmp_path / "stl10_binary", FILES))
    np.testing.assert_array_equal(images.images, IMAGES)
    assert images.labels.tolist() == LABELS
    assert images.class_names == tuple(STL10_CLASSES)
    assert images.names[1] == "train_X[1]"
    assert images.history == (
        "STL-10 train split from stl10_binary: 4 images", "4 images, not the 5,000 that STL-10 publishes as this split",
    )  # fmt: skip


def test_the_second_byte_of_a_file_is_the_second_row_of_the_first_column(tmp_path):
    content = bytes([10, 20]) + bytes(27648 - 2)
    images = open_images(folder(tmp_path / "s", FILES | {"train_X.bin": content, "train_y.bin": b"\1"}))
    assert images.images[0, 0, :3, 0].tolist() == [10, 20, 0]


def test_the_archive_and_the_folder_above_read_like_the_folder(tmp_path):
    fingerprint = open_images(folder(tmp_path / "stl10_binary", FILES)).fingerprint
    assert open_images(tmp_path).fingerprint == fingerprint
    assert open_images(packed(tmp_path / "stl10_binary.tar.gz", FILES)).fingerprint == fingerprint


def test_each_split_is_read_by_its_name(tmp_path):
    test = stl10_files(IMAGES[:2], LABELS[:2], "test")
    unlabelled = {"unlabeled_X.bin": FILES["train_X.bin"] * 2}
    path = folder(tmp_path / "s", FILES | test | unlabelled)
    assert open_images(path, "test").labels.tolist() == LABELS[:2]
    both = open_images(path, "unlabeled")
    assert len(both) == 8
    assert both.labels is both.class_names is None
    with pytest.raises(UserError, match="choose train, test or unlabeled"):
        open_images(path, "val")


def test_labels_are_left_out_by_choice(tmp_path):
    assert open_images(folder(tmp_path / "s", FILES), reading=Reading(labels_key="none")).labels is None


@pytest.mark.parametrize("place", [folder, packed])
@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"train_X.bin": FILES["train_X.bin"][:-1]},
            "train_X.bin has 110,591 bytes, which is not a whole number of images",
        ),
        ({"train_X.bin": b""}, "not a whole number"),
        ({"train_X.bin": FILES["train_X.bin"][:-27648]}, "train_y.bin has 4 labels for the 3 images"),
        ({"train_y.bin": FILES["train_y.bin"][:-1]}, "train_y.bin has 3 labels for the 4 images"),
        ({"train_y.bin": bytes([1, 2, 3, 0])}, "holds the label 0; there are 1 to 10"),
        ({"train_y.bin": bytes([1, 2, 3, 11])}, "holds the label 11"),
        ({"train_y.bin": bytes(2**20 + 1)}, "train_y.bin is refused: it has 1,048,577 bytes"),
    ],
)
def test_files_that_are_cut_short_or_do_not_fit_are_refused(tmp_path, place, changed, told):
    with pytest.raises(UserError, match=told):
        open_images(place(tmp_path / "stl10", FILES | changed))


@pytest.mark.parametrize("place", [folder, packed])
@pytest.mark.parametrize("missing", ["train_y.bin", "class_names.txt"])
def test_a_missing_file_is_named(tmp_path, place, missing):
    files = {name: content for name, content in FILES.items() if name != missing}
    with pytest.raises(UserError, match=f"no whole STL-10: stl10_binary/{missing} is missing"):
        open_images(place(tmp_path / "stl10", files))


@pytest.mark.parametrize("left", [-9, 50_000])
def test_an_archive_that_was_cut_short_is_refused(tmp_path, left):
    path = packed(tmp_path / "stl10_binary.tar.gz", FILES)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"stl10_binary\.tar\.gz.*download it again"):
        open_images(path)
