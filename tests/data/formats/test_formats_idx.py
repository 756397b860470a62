import gzip

import numpy as np
import pytest
from data_builders import damaged, idx_bytes, opens_or_explains
from hypothesis import given, settings
from parameters import amount

from diffmem.data import open_images
from diffmem.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = {
    "train": RNG.integers(0, 256, (6, 4, 5), dtype=np.uint8),
    "t10k": RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8),
}


@pytest.fixture(params=["", ".gz"])
def mnist(request, tmp_path):
    """A folder of the usual four files."""
    for part, pixels in IMAGES.items():
        for name, array in [("images-idx3", pixels), ("labels-idx1", np.arange(len(pixels)) % 10)]:
            content = idx_bytes(array)
            path = tmp_path / f"{part}-{name}-ubyte{request.param}"
            path.write_bytes(gzip.compress(content) if request.param else content)
    return tmp_path


@pytest.mark.parametrize(("split", "part"), [("train", "train"), ("test", "t10k")])
def test_a_folder_gives_both_splits_with_labels(mnist, split, part):
    images = open_images(mnist, split)
    np.testing.assert_array_equal(images.images[:, 0], IMAGES[part])
    assert images.labels.tolist() == list(range(len(IMAGES[part])))
    assert images.names[2] == f"{part}-images-idx3-ubyte[2]"


def test_a_file_finds_its_labels_and_its_test_sibling(mnist):
    file = next(mnist.glob("train-images*"))
    assert len(open_images(file).labels) == 6
    assert len(open_images(file, "test").labels) == 3
    assert len(open_images(next(mnist.glob("t10k-images*")))) == 3


def test_a_file_without_labels_beside_it_is_unlabelled_and_this_is_told(mnist):
    next(mnist.glob("train-labels*")).unlink()
    images = open_images(mnist)
    assert images.labels is None
    assert "no labels" in images.history[0]


def test_a_packed_file_beside_its_unpacked_twin_is_the_same_set(mnist):
    for file in list(mnist.iterdir()):
        if file.suffix != ".gz":
            file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
    assert len(open_images(mnist)) == 6


def test_names_with_dots_are_understood(tmp_path):
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx_bytes(IMAGES["train"]))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx_bytes(np.arange(6)))
    assert open_images(tmp_path).num_classes == 6


def test_several_sets_in_one_folder_are_told(mnist):
    file = next(mnist.glob("train-images*"))
    file.with_name(f"emnist-{file.name}").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="several train sets"):
        open_images(mnist)


def test_a_missing_split_is_told(mnist):
    next(mnist.glob("t10k-images*")).unlink()
    with pytest.raises(UserError, match="no test split"):
        open_images(mnist, "test")
    with pytest.raises(UserError, match=r"test split of .* is missing"):
        open_images(next(mnist.glob("train-images*")), "test")


GOOD = idx_bytes(IMAGES["train"])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (GOOD[:-1], "120 values but it has 119"),
        (GOOD[:10], "cut short in its header"),
        (GOOD + b"x", "120 values but it has"),
        (b"\0\0\x0d\x03" + GOOD[4:], "0x0d"),
        (b"\0\0\x08\x01" + GOOD[4:], "1 dimensions instead of 3"),
        (GOOD[:4] + b"\xff" * 12, "GiB"),
        (GOOD[:4] + bytes(12), "no images"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_files_that_are_not_what_they_say_are_refused(tmp_path, content, told, pack):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(pack(content))
    with pytest.raises(UserError, match=told):
        open_images(tmp_path)


def test_too_few_labels_are_told(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(GOOD)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(5)))
    with pytest.raises(UserError, match="5 labels for the 6 images"):
        open_images(tmp_path)


def test_a_packed_file_that_unpacks_to_far_too_much_is_refused(tmp_path):
    content = idx_bytes(np.zeros((40 * 1024, 32, 32), np.uint8))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match="decompression bomb"):
        open_images(tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_damage_gives_a_user_error_or_a_valid_set(tmp_path_factory, pack):
    path = tmp_path_factory.mktemp("damaged") / "train-images-idx3-ubyte"

    @settings(max_examples=amount(30, 150), database=None)
    @given(damaged(pack(GOOD)))
    def check(bad):
        path.write_bytes(bad)
        opens_or_explains(path)

    check()
