import json

import numpy as np
import pytest
from cli_builders import caller

from diffmem.data import ImageSet, open_images, write_images


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return caller(capsys)


@pytest.fixture
def planted(tmp_path):
    digits = open_images("digits").take(np.arange(50), "fifty")
    images = np.concatenate([digits.images, digits.images[[3, 8]]])
    images[51, 0, 0, :2] ^= 1
    labels = np.concatenate([digits.labels, digits.labels[[3, 8]]])
    made = ImageSet(
        images, labels, (*digits.names, "copy of 3", "nearly 8"), digits.class_names, ("planted",)
    )
    write_images(made, tmp_path / "d.npz")
    return made


def test_groups_are_told_written_and_removed(call, planted, tmp_path):
    done = call("data", "duplicates", "d.npz", "--out", "found", "--dedup", "clean.npy")
    assert done.code == 0
    words = " ".join(done.out.split())
    for part in (
        "groups 2 images in groups 4 (7.69%) to remove 2 (3.85%)",
        "2 0.00 3 digit_0003, copy of 3",
        "2 0.18 8 digit_0008, nearly 8",
        "written: found/duplicates.json written: found/duplicates.csv written: found/duplicates.png written: found/duplicates.html",
        "clean.npy: 50 images of 1 x 8 x 8 (C x H x W), 10 classes, fingerprint",
    ):
        assert part in words
    assert (
        json.loads((tmp_path / "found" / "duplicates.json").read_text())["fingerprint"] == planted.fingerprint
    )
    clean = open_images(tmp_path / "clean.npy")
    assert clean.fingerprint == planted.take(np.arange(50), "first").fingerprint
    assert clean.names == planted.names[:50]
    assert "2 images removed that repeat an earlier one within 1 grey level RMS" in clean.history[-2]


def test_radius_0_finds_exact_copies_alone(call, planted):
    words = " ".join(call("data", "duplicates", "d.npz", "--radius", "0").out.split())
    assert "radius 0 grey levels RMS groups 1 images in groups 2" in words


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--radius", "-1"], "--radius must lie between 0 and 255 grey levels, not -1."),
        (["--radius", "nan"], "--radius must lie between 0 and 255 grey levels, not nan."),
        (["--radius", "inf"], "--radius must lie between 0 and 255 grey levels, not inf."),
        (["--dedup", "clean.txt"], "not as 'clean.txt'"),
        (["--dedup", "d.npz"], "d.npz is the source itself; write to another file."),
        (["--out", "d.npz"], "--out d.npz is a file; name a folder."),
        (["--split", "test"], "no test split"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(call, planted, tmp_path, options, told):
    done = call("data", "duplicates", "d.npz", *options)
    assert done.code == 2
    assert told in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]
