import pickle
import tarfile

import numpy as np
import pytest
from data_builders import CIFAR100_CLASSES, cifar100_parts, write_cifar100

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

PARTS = cifar100_parts()


@pytest.fixture
def archive(tmp_path):
    return write_cifar100(tmp_path / "cifar-100-python.tar.gz", PARTS)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_fine_labels_are_read_unless_others_are_asked_for(archive, split):
    images = open_images(archive, split)
    np.testing.assert_array_equal(images.images.reshape(6, -1), PARTS[split][b"data"])
    assert images.labels.tolist() == PARTS[split][b"fine_labels"]
    assert images.class_names == tuple(CIFAR100_CLASSES["fine"])
    assert images.names[2] == f"{split}_2.png"
    assert images.history[1] == "labels: fine_labels (100 classes) (--key labels=coarse_labels or none)"


def test_the_coarse_labels_are_read_by_choice(archive):
    images = open_images(archive, reading=Reading(labels_key="coarse_labels"))
    assert images.labels.tolist() == PARTS["train"][b"coarse_labels"]
    assert images.class_names == tuple(CIFAR100_CLASSES["coarse"])


def test_labels_are_left_out_by_choice(archive):
    images = open_images(archive, reading=Reading(labels_key="none"))
    assert images.labels is None
    assert images.history[1].startswith("labels not read")


def test_the_unpacked_folder_reads_like_the_archive(archive, tmp_path):
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    archive.unlink()
    fingerprint = open_images(tmp_path / "cifar-100-python").fingerprint
    assert open_images(tmp_path).fingerprint == fingerprint
    (tmp_path / "cifar-100-python").rename(tmp_path / "another name")
    assert open_images(tmp_path / "another name").fingerprint == fingerprint


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda parts: parts.pop("train"), "no whole CIFAR-100: cifar-100-python/train is missing"),
        (lambda parts: parts["train"].pop(b"fine_labels"), "train is no CIFAR-100 batch: its 'fine_labels'"),
        (lambda parts: parts["train"].update({b"fine_labels": [100] * 6}), "from 0 to 99"),
        (lambda parts: parts["meta"].pop(b"fine_label_names"), "meta is no part of CIFAR-100"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, change, told):
    parts = cifar100_parts()
    change(parts)
    with pytest.raises(UserError, match=told):
        open_images(write_cifar100(tmp_path / "c.tar.gz", parts))


def test_an_archive_that_was_cut_short_is_refused(archive):
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"cifar-100-python\.tar\.gz.*download it again"):
        open_images(archive)


def test_labels_that_it_does_not_have_are_refused(archive):
    with pytest.raises(UserError, match="no labels 'labels'; choose fine_labels, coarse_labels or none"):
        open_images(archive, reading=Reading(labels_key="labels"))


def test_a_file_that_wants_to_run_code_is_refused(tmp_path):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, part in PARTS.items():
        (folder / name).write_bytes(pickle.dumps(part, 2))
    (folder / "train").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UserError, match=r"train is refused: pickle asks for os\.system"):
        open_images(folder)
