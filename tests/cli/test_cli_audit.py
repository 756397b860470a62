import csv
import json
import re
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from cli_builders import TINY_MODEL, caller, environment
from parameters import slow
from PIL import Image

from diffmem import auditing
from diffmem.__main__ import main
from diffmem.auditing import AuditResult
from diffmem.auditing.selftest import run as selftest
from diffmem.data import ImageSet, open_images, write_images

pytestmark = pytest.mark.usefixtures("few_controls")

PAGE, NUMBERS, MATCHES = "audit.html", "audit.json", "matches.csv"


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with train.npz, heldout.npz, fresh.npz and leaky.npz (fresh ones and 40 copies), of the bundled digits."""
    folder = tmp_path_factory.mktemp("sets")
    images = open_images("digits")
    order = np.random.default_rng(0).permutation(len(images))
    parts = {"train": order[:500], "heldout": order[500:1100], "fresh": order[1100:1500]}
    for name, chosen in parts.items():
        write_images(images.take(chosen, name), folder / f"{name}.npz")
    pixels = np.concatenate([images.images[parts["fresh"]], images.images[parts["train"][:40]]])
    names = tuple(f"made{at}" for at in range(len(pixels)))
    write_images(ImageSet(pixels, None, names), folder / "leaky.npz")
    return folder


def audit(call, sets, samples, out, *more):
    train = ["--train", sets / "train.npz", "--heldout", sets / "heldout.npz"]
    return call("audit", *train, "--samples", sets / f"{samples}.npz", "--out", out, "--device", "cpu", *more)


@pytest.mark.usefixtures("undrawn")
def test_a_clean_audit_ends_with_code_0_and_the_verdict_in_the_first_line(call, sets, tmp_path):
    told = audit(call, sets, "fresh", tmp_path / "out")
    assert told.code == 0, told.err
    assert told.out.startswith("None found: with 400 samples, the rate of copies is below 0.75%")
    result = AuditResult.model_validate_json((tmp_path / "out" / NUMBERS).read_text())
    assert result.verdict.verdict == "none found"


@pytest.mark.slow
def test_a_reader_that_stops_after_the_first_line_gets_the_exit_code_all_the_same(sets, tmp_path):
    given = [
        "--train",
        sets / "train.npz",
        "--heldout",
        sets / "heldout.npz",
        "--samples",
        sets / "leaky.npz",
    ]
    command = [sys.executable, "-m", "diffmem", "audit", *given, "--out", tmp_path / "out"]
    child = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
    )
    child.stdout.close()
    assert child.wait(120) == 3


@pytest.mark.usefixtures("undrawn")
def test_copies_end_with_code_3_and_every_match_stands_in_the_table(call, sets, tmp_path):
    told = audit(call, sets, "leaky", tmp_path / "out")
    assert told.code == 3, told.err
    assert told.out.startswith("Copies found:")
    with (tmp_path / "out" / MATCHES).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {int(row["sample"]) for row in rows} == set(range(400, 440))
    assert {int(row["training"]) for row in rows} == set(range(40))


@pytest.mark.usefixtures("undrawn")
def test_too_few_samples_end_with_code_4_and_the_number_that_is_missing(call, sets, tmp_path):
    few = open_images(sets / "fresh.npz").take(np.arange(50), "few")
    write_images(few, tmp_path / "few.npz")
    told = call(
        "audit", "--train", sets / "train.npz", "--samples", tmp_path / "few.npz", "--out", tmp_path / "out"
    )
    assert told.code == 4, told.err
    assert told.out.startswith("Cannot tell: 50 samples are too few")
    assert "299" in told.out


@pytest.mark.slow
def test_the_same_audit_writes_the_same_bytes(call, sets, tmp_path):
    for name in "ab":
        assert audit(call, sets, "leaky", tmp_path / name, "--transforms", "flip").code == 3
    for file in (NUMBERS, MATCHES, PAGE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.usefixtures("undrawn")
def test_a_private_report_holds_no_name_and_no_image_and_leaves_no_older_picture(call, sets, tmp_path):
    out = tmp_path / "out"
    assert audit(call, sets, "leaky", out).code == 3
    assert b"made400" in (out / MATCHES).read_bytes()
    assert (out / "audit_worst.png").exists()
    assert audit(call, sets, "leaky", out, "--private").code == 3
    assert not (out / "audit_worst.png").exists()
    for file in out.iterdir():
        content = file.read_bytes()
        for secret in (b"made4", b"train.npz", str(sets).encode(), b"digits"):
            assert secret not in content, (file, secret)
    drawn = {path.name for path in out.glob("*.png")}
    assert drawn == {"audit_distances.png", "audit_power.png"}
    assert (out / PAGE).read_text().count("data:image/png") == len(drawn)


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_images_is_taken_as_samples(call, sets, tmp_path):
    (tmp_path / "images").mkdir()
    for at, image in enumerate(open_images(sets / "leaky.npz").images[350:]):
        Image.fromarray(image[0]).save(tmp_path / "images" / f"{at}.png")
    given = ["--train", sets / "train.npz", "--heldout", sets / "heldout.npz"]
    assert call("audit", *given, "--samples", tmp_path / "images", "--out", tmp_path / "out").code == 3


@pytest.mark.usefixtures("undrawn")
def test_mirrored_copies_are_found_in_a_feature_space_that_knows_no_sides(call, sets, tmp_path):
    class Sideless(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images.float() - 76.0
            return torch.maximum(x, x.flip(3)).flatten(1)

    torch.jit.save(torch.jit.script(Sideless()), str(tmp_path / "sideless.pt"))
    pixels = open_images(sets / "leaky.npz").images.copy()
    pixels[400:] = pixels[400:, :, :, ::-1]
    write_images(ImageSet(pixels, None, tuple(map(str, range(440)))), tmp_path / "mirrored.npz")
    given = [
        "--train",
        sets / "train.npz",
        "--heldout",
        sets / "heldout.npz",
        "--samples",
        tmp_path / "mirrored.npz",
    ]
    plain = call("audit", *given, "--out", tmp_path / "plain")
    assert "40 of 440 samples copy training images under another reading, samples mirrored" in plain.out
    told = call(
        "audit", *given, "--features", f"{tmp_path / 'sideless.pt'}:uint8:0.999", "--out", tmp_path / "out"
    )
    assert told.code == 3, told.out + told.err
    result = AuditResult.model_validate_json((tmp_path / "out" / NUMBERS).read_text())
    found = next(one for one in result.criteria if one.key.startswith("features"))
    assert found.flagged.count == 40
    assert "sideless.pt" in found.protocol


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory):
    """The folder of a run of one epoch on the training images."""
    store = tmp_path_factory.mktemp("runs")
    words = ["train", sets / "train.npz", "--out", store, "--epochs", 1, "--batch-size", 100, *TINY_MODEL]
    main([str(word) for word in words])
    return next(store.iterdir())


def model(sets, run, out, *more):
    given = ["--train", sets / "train.npz", "--heldout", sets / "heldout.npz", "--device", "cpu"]
    return ["audit", *given, "--model", run, "--out", out, "--set", "steps=4", *more]


@pytest.mark.usefixtures("undrawn")
def test_a_model_is_sampled_and_its_seeds_are_told(call, sets, run, tmp_path):
    told = call(*model(sets, run, tmp_path / "out", "--num", 300, "--first-seed", 7))
    assert told.code in (0, 3, 4), told.err
    result = AuditResult.model_validate_json((tmp_path / "out" / NUMBERS).read_text())
    assert result.model.seeds == (7, 306)
    assert "4 steps" in result.model.sampling
    assert "736" in result.membership.refused
    assert not (tmp_path / "out" / "samples.shards").exists()


@pytest.mark.slow
def test_an_interrupted_audit_goes_on_to_the_same_bytes(call, sets, run, tmp_path):
    assert call(*model(sets, run, tmp_path / "whole", "--num", 600, "--batch-size", 20)).code in (0, 3, 4)
    command = [
        sys.executable, "-m", "diffmem",
        *map(str, model(sets, run, tmp_path / "cut", "--num", 600, "--batch-size", 20)),
    ]  # fmt: skip
    child = subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL)
    shards = tmp_path / "cut" / "samples.shards"
    deadline = time.monotonic() + 60
    while len(list(shards.glob("*"))) < 3 and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(shards.glob("*"))
    assert not (tmp_path / "cut" / PAGE).exists()
    assert call(*model(sets, run, tmp_path / "cut", "--num", 600, "--batch-size", 20)).code in (0, 3, 4)
    for file in (NUMBERS, MATCHES):
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_canaries_are_planted_by_data_build_and_their_exposure_is_reported(call, sets, tmp_path):
    out = tmp_path / "marked.npz"
    told = call("data", "build", sets / "train.npz", out, "--canaries", 8, "--repeats", 3)
    assert told.code == 0, told.err
    built = open_images(out)
    assert len(built) == 500 - 16 + 24
    write_images(built, tmp_path / "copied.npz")
    told = call(
        "audit", "--train", out, "--samples", tmp_path / "copied.npz", "--canaries", tmp_path / "marked.canaries.npz",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert told.code == 3, told.err
    (exposure,) = json.loads((tmp_path / "out" / NUMBERS).read_text())["exposure"]
    assert exposure["finding"] == "exposed"
    assert exposure["mean"] == pytest.approx(np.log2(9))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--out"),
        (["--out", "report"], "--samples"),
        (["--out", "report", "--samples", "a", "--model", "b"], "--samples"),
        (["--out", "report", "--samples", "nowhere", "--train", "digits"], "nowhere"),
        (["--out", "report", "--model", "nowhere", "--train", "digits"], "nowhere"),
        (["--out", "report", "--samples", "digits", "--train", "nowhere"], "nowhere"),
        (["--out", "report", "--samples", "digits"], "--train"),
        (["--out", "report", "--samples", "digits", "--train", "digits", "--transforms", "turn"], "turn"),
        (["--out", "report", "--samples", "digits", "--train", "digits", "--features", "no.pt"], "no.pt"),
        (["--out", "report", "--samples", "digits", "--train", "digits", "--target", "2"], "between 0 and 1"),
        (["--out", "report", "--samples", "digits", "--train", "digits", "--canaries", "no"], "no"),
        (["--out", "report", "--samples", "digits", "--train", "digits", "--set", "steps=3"], "--set"),
        (["--out", "file", "--samples", "digits", "--train", "digits"], "is a file"),
        (["--out", "report", "--samples", "digits", "--train", "."], "report lies in ."),
        (["--out", "report", "--samples", ".", "--train", "digits"], "report lies in ."),
        (["--out", "report", "--samples", "digits", "--train", ""], "empty text"),
        (
            ["--out", "report", "--samples", "digits", "--train", "digits", "--seed", "-1"],
            "seed must be 0 or more",
        ),
        (["--self-test", "--samples", "digits"], "--self-test"),
        (["--self-test", "--text", "--train", "digits"], "--text tests on emoji"),
        (["--text", "--train", "digits"], "--text belongs to --self-test"),
    ],
)
def test_a_wrong_question_is_one_line_with_code_2_and_nothing_is_written(
    call, tmp_path, monkeypatch, words, told
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("here")
    found = call("audit", *words)
    assert found.code == 2
    assert found.err.count("\n") == 1
    assert told in found.err
    assert {path.name for path in tmp_path.iterdir()} == {"file"}


@pytest.mark.parametrize("size", ["small", slow("as released")])
def test_the_self_test_passes_and_says_what_it_proved(call, tmp_path, monkeypatch, size):
    if size == "small":
        monkeypatch.setattr(selftest, "_DRAWS", 20)
        monkeypatch.setattr(selftest, "POSITIVE_CONTROLS", selftest.POSITIVE_CONTROLS[:2])
        small = partial(auditing.self_test, samples=299, shares=(0, 0.1, 1), duplicated=("none",))
        monkeypatch.setattr(auditing, "self_test", small)
    told = call("audit", "--self-test", "--out", tmp_path / "self")
    assert told.code == 0, told.out + told.err
    assert told.out.startswith("The audit works")
    assert re.search(r"exact +100", told.out)
    assert (tmp_path / "self" / "selftest.json").exists()
    assert (tmp_path / "self" / "selftest_power.png").exists()
