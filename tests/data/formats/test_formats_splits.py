import numpy as np
import pytest
from data_builders import encoded, write_zip

from diffmem.data import BuildConfig, Reading, build, open_images
from diffmem.data.formats.files import divide
from diffmem.errors import UserError

RNG = np.random.default_rng(5)


def put(path, *names, archive=False):
    """Write an image for each name into a folder or a zip."""
    contents = {name: encoded(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for name in names}
    if archive:
        return write_zip(path / "set.zip", contents)
    for name, content in contents.items():
        (path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "set" / name).write_bytes(content)
    return path / "set"


BOTH = ["train/cat/1.png", "train/cat/2.png", "train/dog/3.png", "test/cat/4.png", "test/dog/5.png"]


@pytest.mark.parametrize("archive", [False, True])
def test_train_and_test_are_splits_and_no_classes(tmp_path, archive):
    place = put(tmp_path, *BOTH, archive=archive)
    remedy = r"Give --split train \(" if archive else r"Name .*set/train, or give --split train \("
    with pytest.raises(
        UserError, match=rf"holds splits, not classes: test \(2 images\), train \(3 images\)\. {remedy}"
    ):
        open_images(place)
    training, fresh = open_images(place, "train"), open_images(place, reading=Reading(split="test"))
    assert (training.names, fresh.names) == (tuple(BOTH[:3]), tuple(BOTH[3:]))
    assert training.class_names == fresh.class_names == ("cat", "dog")
    assert fresh.labels.tolist() == [0, 1]
    assert training.history[1] == "split train: 3 of 5 image files (not read: test 2)"
    assert build(place, BuildConfig(reading=Reading(split="test"))).fingerprint == fresh.fingerprint


@pytest.mark.parametrize(
    ("names", "split", "kept"),
    [
        (["TRAIN/1.png", "Test/2.png"], "test", ["Test/2.png"]),
        (["data/train/1.png", "data/valid/2.png"], "valid", ["data/valid/2.png"]),
        (["a/b/training/x/1.png", "a/b/testing/x/2.png"], "train", ["a/b/training/x/1.png"]),
        (["train/1.png", "val/2.png", "test/3.png"], "validation", ["val/2.png"]),
        (["train/1.png", "test/2.png", "unlabeled/3.png"], "unlabeled", ["unlabeled/3.png"]),
        (["train/1.png", "test/2.png", "thumbnails/3.png"], "train", ["train/1.png"]),
        (["train2017/1.png", "val2017/2.png"], "val", ["val2017/2.png"]),
        (["train_images/x/1.png", "test_images/x/2.png"], "train", ["train_images/x/1.png"]),
        (["trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png"], "trainB", ["trainB/2.png"]),
        (["seg_train/a/1.png", "seg_test/a/2.png", "seg_pred/3.png"], "test", ["seg_test/a/2.png"]),
        (["train-clean-100/1.png", "dev-clean-100/2.png"], "train", ["train-clean-100/1.png"]),
        (
            ["cat/train/1.png", "cat/test/2.png", "dog/train/3.png"],
            "train",
            ["cat/train/1.png", "dog/train/3.png"],
        ),
    ],
)
def test_splits_are_found_wherever_they_lie(tmp_path, names, split, kept):
    place = put(tmp_path, *names)
    with pytest.raises(UserError, match="splits, not classes"):
        open_images(place)
    assert list(open_images(place, split).names) == kept


@pytest.mark.parametrize(
    "folders", [("train", "bus"), ("test_tube", "train_station"), ("test_1", "test_2"), ("trainer", "testis")]
)
def test_classes_that_have_the_word_of_a_split_in_their_names_are_classes(tmp_path, folders):
    place = put(tmp_path, *(f"{folder}/1.png" for folder in folders))
    assert open_images(place).class_names == tuple(sorted(folders))


def test_folders_of_classes_inside_and_around_a_split_are_classes():
    paths = ["x/cat/train/1.png", "x/cat/test/2.png", "x/dog/train/3.png"]
    assert divide(paths, "train", "x").classes == ["cat/x", "dog/x"]
    paths = ["x/train/cat/1.png", "x/test/cat/2.png", "x/train/dog/deep/3.png"]
    assert divide(paths, "train", "x").classes == ["cat/x", "dog/deep/x"]


@pytest.mark.parametrize(
    "names",
    [
        ["plane/1.png", "train/2.png"],
        ["test tubes/1.png", "beakers/2.png"],
        ["1.png", "2.png"],
        ["a/train/1.png", "b/2.png"],
    ],
)
def test_other_folders_are_classes_as_they_were(tmp_path, names):
    images = open_images(put(tmp_path, *names))
    assert len(images) == 2
    assert open_images(tmp_path / "set", "train").fingerprint == images.fingerprint
    with pytest.raises(UserError, match="no test split: it is one set"):
        open_images(tmp_path / "set", "test")


def test_a_split_that_is_alone_is_read_and_told(tmp_path):
    images = open_images(put(tmp_path, "train/cat/1.png", "train/dog/2.png"))
    assert images.class_names == ("cat", "dog")
    assert images.history[1] == "split train: 2 of 2 image files (there is no other)"


def test_a_split_that_is_not_there_is_told_with_those_that_are(tmp_path):
    with pytest.raises(
        UserError, match=r"no split 'val'; its splits are test \(2 images\), train \(3 images\)"
    ):
        open_images(put(tmp_path, *BOTH), "val")


def test_labels_of_a_zip_of_splits_are_those_of_its_description(tmp_path):
    contents = {name: encoded(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for name in BOTH}
    labels = [[name, number] for number, name in enumerate(BOTH)]
    assert open_images(write_zip(tmp_path / "z.zip", contents, labels), "test").labels.tolist() == [3, 4]


def test_two_unlike_splits_are_refused(tmp_path):
    with pytest.raises(UserError, match="Two splits are asked for: train and test"):
        open_images(put(tmp_path, *BOTH), "train", reading=Reading(split="test"))
