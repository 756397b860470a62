import os

import numpy as np
import pytest

from diffmem.data import ImageSet, open_images, write_images
from diffmem.errors import UserError
from diffmem.runs.distribution import open_distribution
from diffmem.runs.recipe import DataConfig
from diffmem.settings import validated


def config(**values):
    return validated(DataConfig, {"source": "digits", "selection": "random", **values}, "test")


def pixels(images):
    return {image.tobytes() for image in images.images}


def test_held_out_images_leave_the_pool(tmp_path):
    path = tmp_path / "both.npz"
    write_images(open_images("digits").take(np.arange(50), "fifty"), path)
    found = open_distribution(config(source=str(path), heldout=10))
    assert (len(found.pool), len(found.heldout)) == (40, 10)
    assert found.draw(40).fingerprint != found.pool.fingerprint  # in random order and without labels
    assert open_distribution(config(source=str(path))).heldout is None


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "set.npz"
    write_images(open_images("digits").take(np.arange(50), "fifty"), path)
    assert len(open_distribution(config(source=str(path))).pool) == 50
    write_images(open_images("digits").take(np.arange(60), "sixty"), path)
    assert len(open_distribution(config(source=str(path))).pool) == 60


def test_a_folder_with_another_image_in_one_of_its_folders_is_read_again(tmp_path):
    digits, path = open_images("digits").take(np.arange(3), "three"), tmp_path / "set"
    write_images(digits, path, form="imagefolder")
    (path / "metadata.jsonl").unlink()
    assert len(open_distribution(config(source=str(path))).pool) == 3
    image = next(path.rglob("*.png"))
    image.with_name("one-more.png").write_bytes(image.read_bytes())
    # A second later: file systems note changes within some milliseconds as made at once.
    os.utime(image.parent, ns=(0, image.parent.stat().st_mtime_ns + 10**9))
    assert len(open_distribution(config(source=str(path))).pool) == 4


def test_a_number_of_classes_keeps_the_first_so_many():
    found = open_distribution(config(classes=3, selection="balanced"))
    assert found.draw(9).labels is None
    assert found.pool.num_classes == 3
    assert config(classes=3) == config(classes=[0, 1, 2])


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_mixture_takes_its_share_of_the_second_source_in_training_and_held_out_sets(share):
    mixed = config(classes=[3], heldout=40, mixture={"source": "digits", "classes": [8], "share": share})
    found = open_distribution(mixed)
    threes = pixels(open_distribution(config(classes=[3])).pool)
    for images, size in ((found.draw(50), 50), (found.draw(20), 20), (found.heldout, 40)):
        from_second = sum(image.tobytes() not in threes for image in images.images)
        assert (len(images), from_second) == (size, round(size * share))
    assert not pixels(found.draw(100)) & pixels(found.heldout)
    assert pixels(found.draw(20)) < pixels(found.draw(50))


def test_random_labels_stay_with_their_images_at_every_size():
    found = open_distribution(config(labels="random", label_classes=7, selection="balanced"))
    small, large = found.draw(20), found.draw(200)
    told = {image.tobytes(): label for image, label in zip(large.images, large.labels, strict=True)}
    assert [told[image.tobytes()] for image in small.images] == small.labels.tolist()
    assert small.num_classes == large.num_classes == 7


def test_unique_labels_are_one_for_each_image():
    drawn = open_distribution(config(labels="unique")).draw(30)
    assert sorted(drawn.labels.tolist()) == list(range(30))
    assert drawn.num_classes == 30


def test_duplication_repeats_a_share_of_the_images():
    drawn = open_distribution(config(duplication={"share": 0.2, "copies": 5})).draw(50)
    _, counts = np.unique(drawn.images.reshape(len(drawn), -1), axis=0, return_counts=True)
    assert len(counts) == 50
    assert set(counts.tolist()) == {1, 5}
    assert 3 <= np.count_nonzero(counts == 5) <= 20  # each image by its own draw of chance 0.2


def test_labels_that_a_source_does_not_have_are_refused(tmp_path):
    path = tmp_path / "plain.npz"
    write_images(ImageSet(open_images("digits").images[:20], None, tuple(map(str, range(20)))), path)
    with pytest.raises(UserError, match="no labels"):
        open_distribution(config(source=str(path), labels=True)).draw(10)


@pytest.mark.parametrize(
    "wrong", [{"labels": "random"}, {"labels": "true", "label_classes": 5}, {"label_classes": 5}]
)
def test_label_classes_belong_to_random_labels_alone(wrong):
    with pytest.raises(UserError, match="label_classes"):
        config(**wrong)


def test_the_description_names_what_was_done():
    words = open_distribution(
        config(
            heldout=10,
            labels="random",
            label_classes=5,
            duplication={"share": 0.1, "copies": 3},
            mixture={"source": "digits", "share": 0.25},
        )
    ).describe()
    for part in ("digits", "8x8x1", "0.25", "random labels of 5 classes", "10% of them 3 times", "10 images"):
        assert part in words
