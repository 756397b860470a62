import hashlib

import cyclopts
import numpy as np
import pytest
from PIL import Image

from diffmem.cli.data import data_build, data_fetch, data_info
from diffmem.data import (
    DOWNLOADS,
    BuildConfig,
    CanarySet,
    Download,
    ImageSet,
    balanced,
    build,
    open_images,
    plant_canaries,
    write_images,
)
from diffmem.errors import DiffmemError, UserError

app = cyclopts.App(result_action="return_value")
app.command(data_build, name="build")
app.command(data_info, name="info")
app.command(data_fetch, name="fetch")


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


def test_build_of_an_npy_tells_where_labels_and_names_are(tmp_path, capsys):
    out = tmp_path / "d.npy"
    app(["build", "digits", str(out), "--size", "100"])
    images = open_images(out)
    assert images.fingerprint == balanced(open_images("digits"), 100).fingerprint
    assert capsys.readouterr().out.endswith(f", 6.5 kB; labels and names in {tmp_path / 'd.meta.npz'}\n")
    app(["build", str(out), str(tmp_path / "e.npy"), "--size", "10", "--gray"])
    assert open_images(tmp_path / "e.npy").names == images.take(range(0, 100, 10), "tenth").names


def test_build_plants_canaries_and_says_where_their_file_is(tmp_path, capsys):
    out = tmp_path / "d.zip"
    app(["build", "digits", str(out), "--size", "100", "--canaries", "5", "--repeats", "3", "--seed", "4"])
    made, canaries = plant_canaries(build("digits", BuildConfig(size=100, seed=4)), 5, 3, 4)
    images, kept = open_images(out), CanarySet.load(tmp_path / "d.canaries.npz")
    assert len(images) == 100 - 10 + 15
    assert images.fingerprint == made.fingerprint == kept.fingerprint
    assert (kept.control == canaries.control).all()
    told, warned = capsys.readouterr()
    told = told.splitlines()
    assert (len(told), warned) == (2, "")
    assert told[1].startswith(f"{tmp_path / 'd.canaries.npz'}: 5 canaries that are in the set 3 times each")
    assert told[1].endswith("do not train on this file.")


def test_build_warns_of_the_canaries_of_an_earlier_set(tmp_path, capsys):
    out = tmp_path / "d.zip"
    app(["build", "digits", str(out), "--size", "100", "--canaries", "5", "--repeats", "3"])
    app(["build", "digits", str(out), "--size", "100"])
    assert f"{tmp_path / 'd.canaries.npz'} is of an earlier set" in capsys.readouterr().err


def test_build_says_that_few_canaries_hardly_show_anything(tmp_path, capsys):
    app(["build", "digits", str(tmp_path / "d.npy"), "--size", "100", "--canaries", "2", "--repeats", "1"])
    assert "the smallest p-value of their exposure is 0.17; plant 5 or more." in capsys.readouterr().out
    assert (tmp_path / "d.canaries.npz").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--canaries", "5"], "need both"),
        (["--repeats", "5"], "need both"),
        (["--canaries", "0", "--repeats", "1"], "At least 1 canary"),
        (["--canaries", "50", "--repeats", "1"], "leaves none of 100"),
    ],
)
def test_build_refuses_impossible_canaries_and_writes_nothing(tmp_path, options, told):
    with pytest.raises(UserError, match=told):
        app(["build", "digits", str(tmp_path / "d.zip"), "--size", "100", *options])
    assert list(tmp_path.iterdir()) == []


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


def test_build_passes_the_options_of_mixtures_labels_and_copies_on(tmp_path, capsys):
    out = tmp_path / "d.zip"
    mixed = ["--classes", "5", "--mix", "digits", "--mix-classes", "7", "--share", "0.3"]
    changed = [
        "--labels",
        "random",
        "--label-classes",
        "50",
        "--duplicate",
        "0.5",
        "--copies",
        "5",
        "--seed",
        "3",
    ]
    app(["build", "digits", str(out), "--size", "20", *mixed, *changed])
    expected = build(
        "digits",
        BuildConfig(
            size=20,
            classes=["5"],
            mix="digits",
            mix_classes=["7"],
            share=0.3,
            labels="random",
            label_classes=50,
            duplicate=0.5,
            copies=5,
            seed=3,
        ),
    )
    images = open_images(out)
    assert (images.fingerprint, images.num_classes) == (expected.fingerprint, 50)
    assert ", 50 classes, " in capsys.readouterr().out


def test_build_reads_synsets_of_imagenet(tmp_path):
    for synset in ("n00000001", "n00000002"):
        (tmp_path / "train" / synset).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (9, 7), (number, 0, 0)).save(tmp_path / "train" / synset / f"{number}.JPEG")
    (tmp_path / "list.txt").write_text("n00000001 tabby\nn00000002 wolf\n")
    synsets, out = ["--synsets", str(tmp_path / "list.txt")], tmp_path / "d.npz"
    app(["build", str(tmp_path), str(out), *synsets, "--size", "3", "--resolution", "4"])
    images = open_images(out)
    assert (images.class_names, images.labels.tolist()) == (("tabby", "wolf"), [0, 1, 0])
    mixed = ["--mix", str(tmp_path), "--mix-synsets", str(tmp_path / "list.txt"), "--share", "0.5"]
    app(["build", "digits", str(out), *mixed, "--size", "4", "--resolution", "4", "--gray"])
    assert open_images(out).labels.tolist() == [0, 0, 1, 1]


def test_build_does_not_replace_the_source_that_it_mixes_in(tmp_path, capsys):
    out = tmp_path / "d.zip"
    data_build("digits", out, size=10)
    with pytest.raises(UserError, match="the source itself"):
        data_build("digits", out, mix=str(out), share=0.5, size=10)


@pytest.mark.parametrize("name", ["d.tar.gz", "d.txt"])
def test_build_refuses_a_wrong_ending_before_it_reads_anything(tmp_path, name):
    with pytest.raises(UserError, match=r"\.zip, \.npz or \.tar"):
        data_build(str(tmp_path / "missing"), tmp_path / name)


def test_build_does_not_replace_its_own_source(tmp_path, capsys):
    out = tmp_path / "d.zip"
    data_build("digits", out, size=10)
    with pytest.raises(UserError, match="the source itself"):
        data_build(str(out), out)


@pytest.mark.parametrize("command", [["build", "digits", "x.npy"], ["info", "digits"]])
def test_no_processes_are_refused(command):
    with pytest.raises(UserError, match="1 process or more, not 0"):
        app([*command, "--processes", "0"])


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


@pytest.mark.parametrize("part", [1, 100, 10**6])
def test_info_of_a_mapped_set_is_the_same_for_every_size_of_its_parts(tmp_path, capsys, monkeypatch, part):
    monkeypatch.setattr("diffmem.data.storage.parts.__defaults__", (part,))
    pixels = np.random.default_rng(0).integers(3, 200, (7, 4, 5), dtype=np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    data_info(str(tmp_path / "a.npy"))
    words = " ".join(capsys.readouterr().out.split())
    assert f"pixels {pixels.min()} to {pixels.max()}, mean {pixels.mean():.1f}" in words


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


def test_fetch_puts_the_archive_where_examples_look_for_it_and_does_so_once(tmp_path, capsys, monkeypatch):
    out = tmp_path / "datasets" / "cifar10" / "cifar-10-python.tar.gz"
    out.parent.mkdir(parents=True)
    out.write_bytes(b"archive")
    md5 = hashlib.md5(b"archive").hexdigest()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DOWNLOADS, "cifar10", Download("http://127.0.0.1:9/cifar-10-python.tar.gz", md5, 7))
    app(["fetch", "cifar10"])
    printed = capsys.readouterr().out
    assert printed == (
        "datasets/cifar10/cifar-10-python.tar.gz: is complete already, nothing was downloaded "
        f"(7 B, MD5 {md5})\n"
    )


def test_fetch_without_a_network_says_what_to_do_and_is_no_mistake_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setitem(DOWNLOADS, "cifar10", Download("http://127.0.0.1:9/cifar.tar.gz", "0" * 32, 7))
    with pytest.raises(
        DiffmemError, match=r"by hand, on any machine, and put it at .*c\.tar\.gz \(7 bytes"
    ) as failure:
        app(["fetch", "cifar10", "--out", str(tmp_path / "c.tar.gz")])
    assert not isinstance(failure.value, UserError)


def test_info_counts_captions_and_repeats(tmp_path, capsys):
    pixels = np.arange(4 * 3 * 8 * 8, dtype=np.uint64).reshape(4, 3, 8, 8).astype(np.uint8)
    captions = ("a cat", "a cat", None, "a dog")
    images = ImageSet(pixels, None, ("a", "b", "c", "d"), captions=captions, repeats=np.array([5, 1, 1, 25]))
    write_images(images, tmp_path / "c.zip")
    data_info(str(tmp_path / "c.zip"))
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        "captions 3 of 4 images, 2 different repeats 1 (2 images), 5 (1 image), 25 (1 image) duplicates"
        in printed
    )
