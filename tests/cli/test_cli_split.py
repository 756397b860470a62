"""`diffmem data split`."""

import numpy as np
import pytest
from cli_builders import caller
from PIL import Image

import diffmem as dm
from diffmem.cli.split import data_split
from diffmem.errors import UserError


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


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


@pytest.mark.parametrize(
    ("train", "heldout", "match"),
    [
        ("photos/train", "held", "lies in"),
        ("train", "photos/deep/held", "lies in"),
        ("both", "both/held", "lie in each other"),
        ("both/train", "both", "lie in each other"),
    ],
)
def test_a_part_in_the_source_or_in_the_other_part_is_refused(tmp_path, train, heldout, match):
    photos = tmp_path / "photos"
    dm.data.write_images(dm.open_images("digits").take(np.arange(20), "some"), photos)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=match):
        data_split(str(photos), tmp_path / train, tmp_path / heldout, count=5)
    assert sorted(tmp_path.rglob("*")) == before


def test_captions_and_repeats_go_with_their_images_into_folders(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    captions = tuple(f"thing {number}" for number in range(12))
    images = dm.ImageSet(
        pixels, None, captions, captions=captions, repeats=np.array([1, 5] * 6, dtype=np.int64)
    )
    dm.write_images(images, tmp_path / "all.zip")
    data_split(str(tmp_path / "all.zip"), tmp_path / "train", tmp_path / "held", count=4)
    assert capsys.readouterr().out.count(", with captions") == 2
    caption_of = {
        image.tobytes(): (caption, times)
        for image, caption, times in zip(pixels, captions, [1, 5] * 6, strict=True)
    }
    for part, count in (("train", 8), ("held", 4)):
        assert {folder.name for folder in (tmp_path / part).iterdir() if folder.is_dir()} <= {
            "1_images",
            "5_images",
        }
        read = dm.open_images(tmp_path / part)
        assert len(read) == count
        for image, caption, times in zip(read.images, read.captions, read.repeats, strict=True):
            assert caption_of.pop(image.tobytes()) == (caption, times)
    assert not caption_of
    data_split(
        str(tmp_path / "all.zip"), tmp_path / "train2", tmp_path / "held2", count=4, form="imagefolder"
    )
    assert (tmp_path / "held2" / "metadata.jsonl").is_file()


@pytest.mark.parametrize(
    ("names", "form", "match"),
    [
        (("train", "held"), "kohya", "need a caption"),
        (("train", "held.zip"), "imagefolder", "held.zip is a file"),
    ],
)
def test_where_one_part_cannot_be_written_neither_is(tmp_path, names, form, match):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)
    captions = (*(f"thing {number}" for number in range(11)), None)
    dm.write_images(dm.ImageSet(pixels, None, ("",) * 12, captions=captions), tmp_path / "all.zip")
    with pytest.raises(UserError, match=match):
        data_split(str(tmp_path / "all.zip"), *(tmp_path / name for name in names), count=4, form=form)
    assert [file.name for file in tmp_path.iterdir()] == ["all.zip"]


def test_images_of_one_patient_stay_on_one_side(tmp_path, call):
    rng = np.random.default_rng(0)
    for patient in range(6):
        folder = tmp_path / "scans" / f"patient{patient}"
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    done = call(
        "data", "split", "scans", "train.zip", "held.zip", "--count", "5", "--together", "patient([0-9]+)"
    )
    assert done.code == 0
    assert "held out 6 of 18 images, in 2 of 6 groups, seed 0" in dm.open_images("held.zip").history
    sides = [
        {name.split("/")[0] for name in dm.open_images(part).names} for part in ("train.zip", "held.zip")
    ]
    assert [len(side) for side in sides] == [4, 2]
    assert not sides[0] & sides[1]
    refused = call("data", "split", "scans", "a.zip", "b.zip", "--count", "5", "--together", "clip")
    assert refused.code == 2
    assert "'clip' is not found in the names of 18 of 18 images" in refused.err
