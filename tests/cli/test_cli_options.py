"""The options that say how images are read, of `data build` and `data info`."""

import cyclopts
import numpy as np
import pytest
from PIL import Image

from diffmem.__main__ import main
from diffmem.cli.data import data_build, data_info
from diffmem.cli.duplicates import data_duplicates
from diffmem.cli.options import ReadingOptions
from diffmem.data import Reading, open_images
from diffmem.errors import UserError

app = cyclopts.App(result_action="return_value")
app.command(data_build, name="build")
app.command(data_info, name="info")
app.command(data_duplicates, name="duplicates")
RNG = np.random.default_rng(2)


@pytest.fixture
def photos(tmp_path):
    """Splits of an image that is see-through and one that is stored turned, both 8 x 6."""
    for split in ("train", "val"):
        (tmp_path / "set" / split).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (6, 8, 4), dtype=np.uint8)).save(
            tmp_path / "set" / split / "a.png"
        )
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(
            tmp_path / "set" / split / "b.jpg", exif=exif
        )
    return tmp_path / "set"


def test_every_option_reaches_the_reader_and_is_told(photos, tmp_path, capsys):
    out = tmp_path / "out.npz"
    app(
        f"build {photos} {out} --split val --alpha black --exif apply --white 4095 --pages all --fit pad --resolution 16"
    )
    reading = Reading("black", "apply", 4095, "all", "pad", 16, "val")
    assert open_images(out).fingerprint == open_images(photos, reading=reading).fingerprint
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{out}: 2 images of 3 x 16 x 16")
    assert told[1:] == [f"  {line}" for line in open_images(photos, reading=reading).history[1:]]
    assert "transparent pixels composited on black in 1 of 2 files" in told[2]


def test_info_shows_each_line_of_the_history(photos, capsys):
    app(["info", str(photos), "--split", "train", "--alpha", "drop", "--fit", "stretch", "--resolution", "4"])
    told = " ".join(capsys.readouterr().out.split())
    assert "2. split train: 2 of 4 image files (not read: val 2)" in told
    assert "3. transparency dropped, the stored colours kept in 1 of 2 files" in told
    assert "4. EXIF orientation ignored: 1 of 2 files are stored rotated" in told
    assert "5. brought to 4 x 4 in 2 of 2 images: stretched" in told


def test_duplicates_takes_a_split(photos, capsys):
    app(["duplicates", str(photos), "--split", "val"])
    assert capsys.readouterr().out


@pytest.mark.parametrize("option", [["--range=-1..1"], ["--range", "-1..1"]])
def test_options_about_arrays_reach_the_reading(tmp_path, option):
    pixels, out = RNG.integers(0, 256, (2, 3, 8, 3), dtype=np.uint8), tmp_path / "out.npz"
    np.savez(tmp_path / "a.npz", pixels=pixels / 127.5 - 1, target=np.array([[1], [0]]))
    keys = ["--key", "images=pixels", "--key", "labels=target"]
    app(["build", str(tmp_path / "a.npz"), str(out), *keys, "--layout", "hwc", *option])
    images = open_images(out)
    np.testing.assert_array_equal(images.images, pixels.transpose(0, 3, 1, 2))
    assert images.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["image=x"], "--key 'image=x' must read images=NAME or labels=NAME"),
        (["images"], "must read images=NAME"),
        (["labels=a", "labels=b"], "--key labels is given twice: a and b"),
    ],
)
def test_keys_that_are_no_pairs_are_refused(tmp_path, keys, told):
    np.savez(tmp_path / "a.npz", x=RNG.integers(0, 256, (2, 3, 8), dtype=np.uint8))
    with pytest.raises(UserError, match=told):
        app(["info", str(tmp_path / "a.npz"), *(word for key in keys for word in ("--key", key))])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--fit", "crop"], "--fit crop needs --resolution"),
        (["--resolution", "8"], "--resolution shows images of another size only with --fit"),
        (["--white", "0"], "from 1 to 65,535, not 0"),
        ([], "holds splits, not classes"),
        (["--split", "test"], "no split 'test'; its splits are train"),
    ],
)
def test_options_that_do_not_go_together_are_told(photos, options, told):
    with pytest.raises(UserError, match=told):
        app(["info", str(photos), *options])


def test_unknown_values_are_refused_by_the_parser(photos):
    with pytest.raises(cyclopts.CycloptsError):
        app(["info", str(photos), "--alpha", "blue"], exit_on_error=False, print_error=False)


def test_build_resizes_by_its_resolution_alone_as_before(photos, tmp_path):
    out = tmp_path / "out.npz"
    app(["build", str(photos / "train"), str(out), "--resolution", "4"])
    assert open_images(out).shape == (3, 4, 4)
    assert ReadingOptions().reading(4) == Reading()


def test_links_out_of_the_folder_are_followed_by_an_option(photos, tmp_path, capsys):
    (tmp_path / "linked").mkdir()
    for file in ("a.png", "b.jpg"):
        (tmp_path / "linked" / file).symlink_to(photos / "val" / file)
    with pytest.raises(UserError, match="--follow-links"):
        app(f"build {tmp_path / 'linked'} {tmp_path / 'out.tar'}")
    app(f"build {tmp_path / 'linked'} {tmp_path / 'out.tar'} --follow-links")
    assert "  2 links to folders, or out of linked, followed" in capsys.readouterr().out.splitlines()
    assert open_images(tmp_path / "out.tar").fingerprint == open_images(photos, "val").fingerprint


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "digits", "--seed", "1.5"], "Invalid value for --seed: 1.5 is not a whole number."),
        (
            ["study", "onset", "folder", "--size", "3.7"],
            "Invalid value for --size: 3.7 is not a whole number.",
        ),
        (
            ["data", "build", "digits", "a.npz", "--white", "7.5"],
            "Invalid value for --white: 7.5 is not a whole number.",
        ),
    ],
)
def test_a_number_with_a_fraction_is_not_rounded_where_a_whole_one_is_asked_for(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert (ended.value.code, capsys.readouterr().err) == (2, f"error: {told}\n")


def test_a_whole_number_may_be_written_with_a_point(tmp_path, capsys):
    main(["data", "build", "digits", str(tmp_path / "a.npz"), "--size", "20.0", "--selection", "first"])
    assert "20 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["--epochs", "3", "--set", "training.epochs=5"],
            "--epochs 3 and --set training.epochs=5 say the same; leave one out.",
        ),
        (
            ["--batch-size", "8", "--set", "training.batch_size=9"],
            "--batch-size 8 and --set training.batch_size=9 say the same;",
        ),
    ],
)
def test_a_setting_that_is_given_by_two_options_is_refused(words, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["train", "digits", *words])
    assert (ended.value.code, told in capsys.readouterr().err) == (2, True)
