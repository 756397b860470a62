"""Real situations in which an audit must not say "None found", each as a small one of its kind."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from cli_builders import caller, environment
from parameters import few, slow
from PIL import Image, ImageOps

from diffmem.data import ImageSet, open_images, write_images

pytestmark = pytest.mark.usefixtures("undrawn", "few_controls")

FOUND, NONE, OPEN, WRONG = 3, 0, 4, 2


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.fixture(scope="module")
def parts():
    """Training, held-out and fresh digits of 16 x 16 pixels, smooth enough for JPEG."""
    images = open_images("digits").images
    large = np.stack(
        [np.asarray(Image.fromarray(one[0]).resize((16, 16), Image.Resampling.BICUBIC)) for one in images]
    )
    order = np.random.default_rng(0).permutation(len(large))
    return {
        name: large[order[low:high]]
        for name, low, high in (("train", 0, 300), ("heldout", 300, 700), ("fresh", 700, 1100))
    }


def saved(path, images):
    names = tuple(f"image{at}" for at in range(len(images)))
    write_images(ImageSet(np.ascontiguousarray(images)[:, None], None, names), path)
    return path


def folder_of(path, images, ending=".png", **how):
    path.mkdir(parents=True)
    for at, one in enumerate(images):
        Image.fromarray(one).save(path / f"image{at:04d}{ending}", **how)
    return path


@pytest.fixture
def audit(call, parts, tmp_path):
    def run(samples, *more, train=None, heldout=True):
        given = ["--train", train or saved(tmp_path / "train.npz", parts["train"])]
        if heldout:
            given += ["--heldout", saved(tmp_path / "heldout.npz", parts["heldout"])]
        if isinstance(samples, np.ndarray):
            samples = saved(tmp_path / "samples.npz", samples)
        return call(
            "audit", *given, "--samples", samples, "--out", tmp_path / "out", "--device", "cpu", *more
        )

    return run


def headline(told):
    return told.out.splitlines()[0] if told.out else told.err


def test_samples_that_are_all_black_cannot_be_judged(audit, parts):
    told = audit(np.zeros_like(parts["fresh"]))
    assert told.code == OPEN
    assert headline(told).startswith("Cannot tell: 400 of 400 samples")
    assert "constant" in headline(told)


def test_copies_beside_black_samples_are_found_and_the_black_ones_are_no_trials(audit, parts):
    samples = np.concatenate([parts["train"][:60], np.zeros_like(parts["fresh"])[:340]])
    told = audit(samples)
    assert told.code == FOUND
    assert headline(told).startswith("Copies found: 60 of 60 different samples (of 400 given) (100.00%")


def test_one_image_many_times_cannot_be_judged(audit, parts):
    told = audit(np.repeat(parts["fresh"][:1], 400, axis=0))
    assert told.code == OPEN
    assert headline(told).startswith("Cannot tell: ")


def test_noise_cannot_be_judged(audit, parts):
    told = audit(np.random.default_rng(0).integers(0, 256, (400, 16, 16), dtype=np.uint8))
    assert told.code == OPEN
    assert "noise" in headline(told)


def test_sheets_of_many_samples_cannot_be_judged(audit, parts):
    tiles = parts["fresh"][:384].reshape(6, 8, 8, 16, 16).transpose(0, 1, 3, 2, 4).reshape(6, 128, 128)
    told = audit(tiles)
    assert told.code == OPEN
    assert headline(told).startswith("Cannot tell: ")
    assert "too few" not in headline(told)


@pytest.fixture
def medical(tmp_path, parts):
    """Training images of 12 bits in files of 16."""
    values = (parts["train"].astype(np.float64) / 255 * 4095).round().astype(np.uint16)
    path = tmp_path / "medical"
    path.mkdir()
    for at, one in enumerate(values):
        Image.fromarray(one).save(path / f"{at:04d}.png")
    return path


def test_files_of_16_bits_that_use_12_are_not_read_as_black_without_a_word(audit, parts, medical):
    told = audit(parts["train"], train=medical)
    assert told.code in (WRONG, FOUND, OPEN)
    assert "white" in told.out + told.err
    assert not headline(told).startswith("None found")


def test_files_of_12_bits_are_audited_with_their_white_level(audit, parts, medical):
    told = audit(parts["train"], "--train-read", "white=4095", train=medical)
    assert told.code == FOUND


@pytest.mark.parametrize("count", [10, 60, 400])
def test_held_out_images_that_the_model_has_seen_are_named(audit, parts, count):
    told = audit(np.concatenate([parts["heldout"][:count], parts["fresh"][count:]]))
    assert told.code == OPEN
    assert f"{count} of 400 samples are identical to held-out images" in headline(told)
    assert "the model was trained on them" in headline(told)
    assert ("swapped" in headline(told)) == (count == 400)


def splits(path, parts):
    for split, images in (("train", parts["train"]), ("test", parts["heldout"][:100])):
        for name, chosen in (("cat", images[::2]), ("dog", images[1::2])):
            folder_of(path / split / name, chosen)
    return path


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


@pytest.mark.parametrize("pack", [lambda folder, path: folder, slow(zipped)], ids=["folder", "zip"])
def test_folders_of_splits_are_no_classes_and_are_named(audit, parts, tmp_path, pack):
    data = pack(splits(tmp_path / "data", parts), tmp_path / "archive.zip")
    told = audit(parts["fresh"], train=data)
    assert told.code == WRONG
    assert "train" in told.err
    assert "test" in told.err
    told = audit(parts["train"], "--train-read", "split=train", train=data)
    assert told.code == FOUND
    assert f"{len(parts['train'])} of 300 samples" in headline(told)


def photographs(path, images, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return folder_of(path, images, ".jpg", exif=exif.tobytes(), quality=98)


@pytest.mark.parametrize("orientation", few([6, 2, 3, 8], 1))
def test_copies_of_photographs_that_are_stored_turned_do_not_hide(audit, parts, tmp_path, orientation):
    train = photographs(tmp_path / "photographs", parts["train"], orientation)
    upright = [np.asarray(ImageOps.exif_transpose(Image.open(file))) for file in sorted(train.iterdir())]
    told = audit(np.stack(upright), train=train)
    assert told.code in (FOUND, OPEN)
    assert "exif" in (told.out + told.err).lower()
    told = audit(np.stack(upright), "--train-read", "exif=apply", train=train)
    assert told.code == FOUND


def test_a_zip_is_read_whole_whatever_the_format_and_the_ending(audit, parts, tmp_path):
    path = tmp_path / "mixed.zip"
    formats = (("PNG", ".png"), ("WEBP", ".webp"), ("PPM", ".ppm"), ("PNG", ""))
    with zipfile.ZipFile(path, "w") as archive:
        for at, one in enumerate(parts["train"]):
            kind, ending = formats[at % 4]
            content = io.BytesIO()
            Image.fromarray(one).save(content, kind, **({"lossless": True} if kind == "WEBP" else {}))
            archive.writestr(f"{at:04d}{ending}", content.getvalue())
    told = audit(parts["train"], train=path)
    assert told.code == FOUND
    assert "300 of 300 samples" in headline(told)


def test_files_that_are_passed_over_stand_beside_the_verdict(audit, parts, tmp_path):
    train = folder_of(tmp_path / "some", parts["train"])
    (train / "notes.txt").write_text("no image")
    told = audit(parts["fresh"], train=train)
    assert "1 other file" in " ".join(told.out.split()) or "notes.txt" in told.out


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_the_exit_code_holds_whatever_the_console_can_print(parts, tmp_path, encoding):
    words = [
        "--train", saved(tmp_path / "train.npz", parts["train"]), "--samples", saved(tmp_path / "copies.npz", parts["train"]),
        "--heldout", saved(tmp_path / "heldout.npz", parts["heldout"]), "--out", tmp_path / "out", "--device", "cpu",
    ]  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-m", "diffmem", "audit", *map(str, words)], capture_output=True,
        env={**environment(), "PYTHONIOENCODING": encoding},
    )  # fmt: skip
    assert told.returncode == FOUND, told.stderr
    assert b"Traceback" not in told.stderr
    assert told.stdout.decode(encoding).startswith("Copies found:")


@pytest.mark.parametrize(("heldout", "count"), [(True, 1), slow((True, 2)), slow((False, 1)), (False, 2)])
def test_copies_of_one_training_image_or_two_are_never_cleared(audit, parts, tmp_path, count, heldout):
    train = saved(tmp_path / "few.npz", parts["train"][:count])
    samples = np.concatenate([parts["train"][:count], parts["fresh"][:399]])
    told = audit(samples, train=train, heldout=heldout)
    assert told.code in (FOUND, OPEN)
    fresh = audit(parts["fresh"], train=train, heldout=heldout)
    assert fresh.code in (NONE, OPEN)
    assert "second neighbour" in fresh.out or fresh.code == NONE


def test_samples_that_all_are_one_of_two_training_images_are_copies_or_the_reason_is_told(
    audit, parts, tmp_path
):
    train = saved(tmp_path / "few.npz", parts["train"][:2])
    told = audit(np.repeat(parts["train"][:2], 200, axis=0), train=train)
    assert told.code in (FOUND, OPEN)
    assert not headline(told).startswith("None")
