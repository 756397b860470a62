"""Each row of the table of formats in docs/how-to/read-my-data.md: written, read, spoilt, refused."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from data_builders import (
    cifar100_parts,
    cifar_parts,
    idx_bytes,
    stl10_files,
    write_cifar,
    write_cifar100,
    write_tar,
)
from scipy.io import savemat

from diffmem.data import Reading, open_images
from diffmem.errors import UserError

PAGE = Path(__file__).parents[2] / "docs/how-to/read-my-data.md"
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
LARGE = RNG.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
LABELS = np.array([3, 0, 1, 3])
ROWS = [
    match[1]
    for line in PAGE.read_text()
    .partition("### Arrays")[2]
    .partition("| on disk |")[2]
    .partition("\n\n")[0]
    .splitlines()
    if (match := re.match(r"\| `([^`]+)`", line))
]


def cifar10(path, whole):
    parts = cifar_parts()
    write_cifar(
        path, parts if whole else {name: part for name, part in parts.items() if name != "data_batch_5"}
    )


def cifar100(path, whole):
    parts = cifar100_parts()
    parts["train"][b"data"] = parts["train"][b"data"][: None if whole else 5]
    write_cifar100(path, parts)


def svhn(path, whole):
    y = np.where(LABELS == 0, 10, LABELS)[: None if whole else 3, None].astype(np.uint8)
    savemat(path, {"X": RGB.transpose(1, 2, 3, 0), "y": y})


def stl10(path, whole):
    files = stl10_files(LARGE, LABELS[: None if whole else 3])
    write_tar(path, {f"stl10_binary/{name}": content for name, content in files.items()})


def medmnist(path, whole):
    labels = LABELS[:, None] if whole else np.array([[1, 1], [0, 1], [0, 0], [1, 0]])
    np.savez(path, train_images=RGB, train_labels=labels, val_images=RGB[:2], val_labels=labels[:2])


def keras(path, whole):
    np.savez(path, **({"x_train": RGB, "y_train": LABELS} if whole else {"x_test": RGB, "y_test": LABELS}))


def guided(path, whole):
    np.savez(path, RGB if whole else RGB[..., :2], LABELS)


def npz(path, whole):
    np.savez(path, images=RGB if whole else RGB.astype(object), labels=np.eye(4)[LABELS])


def npy(path, whole):
    np.save(path, RGB)
    np.savez(path.with_name("any.meta.npz"), labels=LABELS)
    if not whole:
        path.write_bytes(path.read_bytes()[:-1])


def idx(path, whole):
    path.write_bytes(gzip.compress(idx_bytes(RGB[..., 0])))
    labels = idx_bytes(LABELS[: None if whole else 3])
    path.with_name("train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))


MAKERS = {
    "cifar-10-python.tar.gz": (cifar10, (20, 3, 32, 32), "data_batch_5 is missing"),
    "cifar-100-python.tar.gz": (cifar100, (6, 3, 32, 32), "not a list of 5 numbers"),
    "train_32x32.mat": (svhn, (4, 3, 32, 32), "labels for 4 images"),
    "stl10_binary.tar.gz": (stl10, (4, 3, 96, 96), "3 labels for the 4 images"),
    "bloodmnist.npz": (medmnist, (4, 3, 32, 32), "not one-hot.*labels=none"),
    "mnist.npz": (keras, (4, 3, 32, 32), "no split 'train'"),
    "samples_4x32x32x3.npz": (guided, (4, 3, 32, 32), "1 or 3 channels"),
    "any.npz": (npz, (4, 3, 32, 32), "pickled Python objects"),
    "any.npy": (npy, (4, 3, 32, 32), "damaged or incomplete"),
    "train-images-idx3-ubyte.gz": (idx, (4, 1, 32, 32), "3 labels for the 4 images"),
}


def test_every_row_of_the_page_is_run():
    assert list(MAKERS) == ROWS


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_is_read_with_its_labels_and_refused_where_it_is_not_whole(tmp_path, name):
    make, shape, told = MAKERS[name]
    make(tmp_path / name, True)
    images = open_images(tmp_path / name)
    assert images.images.shape == shape
    assert images.labels is not None
    if len(images) == len(LABELS):
        assert images.labels.tolist() == LABELS.tolist()
    make(tmp_path / name, False)
    with pytest.raises(UserError, match=rf"{name.partition('.')[0].partition('-')[0]}.*{told}"):
        open_images(tmp_path / name)


def test_the_options_of_the_page_are_read(tmp_path):
    np.savez(tmp_path / "cache.npz", pixels=RGB / 127.5 - 1, target=np.array(["d", "a", "b", "d"]))
    reading = Reading(images_key="pixels", labels_key="target", range="-1..1")
    images = open_images(tmp_path / "cache.npz", reading=reading)
    np.testing.assert_array_equal(images.images, RGB.transpose(0, 3, 1, 2))
    assert images.labels.tolist() == [2, 0, 1, 2]
