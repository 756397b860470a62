"""`diffmem data split`."""

import numpy as np
import pytest

import diffmem as dm
from diffmem.cli.split import data_split
from diffmem.errors import UserError


def test_the_two_parts_are_the_whole_set_and_share_no_image(tmp_path, capsys):
    data_split("digits", tmp_path / "train.npz", tmp_path / "held.npz", count=500, seed=3)
    train, held = dm.open_images(tmp_path / "train.npz"), dm.open_images(tmp_path / "held.npz")
    assert (len(train), len(held)) == (1297, 500)
    every = dm.open_images("digits").images
    together = np.concatenate([train.images, held.images])
    assert sorted(image.tobytes() for image in together) == sorted(image.tobytes() for image in every)
    assert "500 images" in capsys.readouterr().out


def test_held_out_images_with_an_exact_copy_on_the_other_side_are_counted(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "twice.npz", images=np.concatenate([images, images]))
    data_split(str(tmp_path / "twice.npz"), tmp_path / "a.npz", tmp_path / "b.npz", count=3)
    train, held = dm.open_images(tmp_path / "a.npz"), dm.open_images(tmp_path / "b.npz")
    known = {image.tobytes() for image in train.images}
    both = sum(image.tobytes() in known for image in held.images)
    assert both > 0
    assert f"{both} of the 3 held-out images have an exact copy" in capsys.readouterr().out


def test_one_file_for_both_parts_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(UserError, match="name two files"):
        data_split("digits", tmp_path / "a.npz", tmp_path / "a.npz", count=3)
    assert not list(tmp_path.iterdir())
