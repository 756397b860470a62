import cyclopts
import numpy as np
import pytest
from PIL import Image

from diffmem.cli.data import data_build, data_info
from diffmem.data import balanced, open_images
from diffmem.errors import UserError

app = cyclopts.App(result_action="return_value")
app.command(data_build, name="build")
app.command(data_info, name="info")


def test_build_writes_the_set_and_prints_one_line(tmp_path, capsys):
    out = tmp_path / "d.zip"
    app(["build", "digits", str(out), "--size", "100"])
    images = open_images(out)
    assert images.fingerprint == balanced(open_images("digits"), 100).fingerprint
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{out}: 100 images of 1 x 8 x 8 (C x H x W), 10 classes, fingerprint {images.fingerprint[:16]}, "
    )
    assert printed.count("\n") == 1


def test_build_passes_every_option_on(tmp_path, capsys):
    out = tmp_path / "d.npz"
    options = [
        "--classes",
        "3",
        "--classes",
        "7",
        "--selection",
        "random",
        "--seed",
        "2",
        "--resolution",
        "6",
        "--gray",
    ]
    app(["build", "digits", str(out), "--size", "9", *options])
    images = open_images(out)
    assert images.class_names == ("3", "7")
    assert images.shape == (1, 6, 6)
    assert "seed 2" in " ".join(images.history)


@pytest.mark.parametrize("name", ["d.tar", "folder"])
def test_build_refuses_a_wrong_ending_before_it_reads_anything(tmp_path, name):
    with pytest.raises(UserError, match=r"\.zip or \.npz"):
        data_build(str(tmp_path / "missing"), tmp_path / name)


def test_build_does_not_replace_its_own_source(tmp_path, capsys):
    out = tmp_path / "d.zip"
    data_build("digits", out, size=10)
    with pytest.raises(UserError, match="the source itself"):
        data_build(str(out), out)


def test_info_shows_what_is_in_the_set_and_writes_the_sheet(tmp_path, capsys):
    out, sheet = tmp_path / "d.zip", tmp_path / "sheet.png"
    app(["build", "digits", str(out), "--size", "100"])
    capsys.readouterr()
    app(["info", str(out), "--sheet", str(sheet)])
    printed = " ".join(capsys.readouterr().out.split())
    fingerprint = open_images(out).fingerprint
    for words in [
        "images 100",
        "1 x 8 x 8",
        "0 to 255",
        "10 of 10 images each: 0, 1, 2",
        "duplicates 0 (0.0%) exact copies",
        "balanced: the first 10",
    ]:
        assert words in printed
    assert fingerprint in printed.replace(" ", "")
    assert Image.open(sheet).format == "PNG"


def test_info_shows_names_as_they_are_and_not_as_markup(tmp_path, capsys):
    path = tmp_path / "a.npz"
    np.savez(
        path, images=np.zeros((2, 3, 3), np.uint8), labels=[0, 0], class_names=np.array(["[red]cat[/red]"])
    )
    data_info(str(path))
    printed = capsys.readouterr().out
    assert "[red]cat[/red]" in printed
    assert "1 (50.0%) exact copies" in printed


def test_info_counts_each_class_of_an_uneven_set(tmp_path, capsys):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((3, 3, 3), np.uint8), labels=[0, 2, 2])
    data_info(str(path))
    assert "0 1, 1 0, 2 2" in capsys.readouterr().out


def test_info_sums_up_very_many_classes(tmp_path, capsys):
    path = tmp_path / "a.npz"
    np.savez(path, images=np.zeros((50, 3, 3), np.uint8), labels=np.arange(50))
    data_info(str(path))
    assert "50 in all, 1 to 1 images each" in " ".join(capsys.readouterr().out.split())
