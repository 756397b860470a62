"""`diffmem audit --prompts`: folders of a trainer and of a generator, from the command line."""

import json

import numpy as np
import pytest
from cli_builders import caller
from PIL import Image

from diffmem.auditing.prompts.records import PromptsRecord
from diffmem.data import CanarySet, ImageSet, write_images

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (700, 3, 8, 8), dtype=np.uint8)
CAPTIONS = tuple(f"sks dog, scene {number}" for number in range(60))


@pytest.fixture
def call(capsys):
    return caller(capsys)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """kohya/, held/, gen/, base/ and prompts.jsonl: 60 captions, 20 control prompts, 2 seeds each; captions 0 to 9 copy once."""
    place = tmp_path_factory.mktemp("folders")
    train = ImageSet(
        PIXELS[:60], None, tuple(map(str, range(60))), captions=CAPTIONS, repeats=np.repeat([5, 1], 30)
    )
    write_images(train, place / "kohya")
    captions = tuple(f"held out {number}" for number in range(200))
    held = ImageSet(PIXELS[100:300], None, tuple(map(str, range(200))), captions=captions)
    write_images(held, place / "held")
    rows = []
    for name, start in (("gen", 300), ("base", 500)):
        (place / name).mkdir()
        for at in range(160):
            prompt, seed = divmod(at, 2)
            pixels = PIXELS[prompt] if name == "gen" and prompt < 10 and seed == 0 else PIXELS[start + at]
            Image.fromarray(pixels.transpose(1, 2, 0)).save(place / name / f"{at}.png")
            if name == "gen":
                text = CAPTIONS[prompt] if prompt < 60 else f"held out {prompt}"
                rows.append({"file_name": f"gen/{at}.png", "prompt": text, "seed": seed})
    (place / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return place


def audit(call, folders, out, *more):
    return call(
        "audit", "--train", folders / "kohya", "--heldout", folders / "held", "--samples", folders / "gen",
        "--prompts", folders / "prompts.jsonl", "--out", out, "--device", "cpu", *more,
    )  # fmt: skip


@pytest.mark.usefixtures("undrawn", "few_controls")
def test_copies_by_prompt_beside_the_base_model_are_printed_and_written(call, folders, tmp_path):
    told = audit(call, folders, tmp_path / "out", "--base-samples", folders / "base")
    assert told.code == 3, told.err
    assert told.out.startswith(
        "Copies found: of 30 captions seen 5 times an epoch, 10 bring their images back"
    )
    assert "By prompt" in told.out
    record = PromptsRecord.model_validate_json((tmp_path / "out" / "prompts.json").read_text())
    found = {one.group: one for one in record.groups}
    assert (found["train"].own.count, found["train"].own.total, found["train"].base.copied.count) == (
        10,
        60,
        0,
    )
    assert (found["control"].copied.count, found["control"].copied.total) == (0, 20)
    assert [(one.repeats, one.copied.count) for one in record.levels] == [(1, 0), (5, 10)]
    assert record.trigger == ["dog", "scene", "sks"]
    assert len((tmp_path / "out" / "prompts.csv").read_text().splitlines()) == 81
    assert "<h2>By prompt</h2>" in (tmp_path / "out" / "audit.html").read_text()


@pytest.mark.usefixtures("undrawn", "few_controls")
def test_canaries_with_captions_are_planted_in_a_trainers_folder_and_found_by_level(call, folders, tmp_path):
    built = call(
        "data", "build", folders / "kohya", tmp_path / "set", "--captions", "--form", "kohya", "--canaries", 12, "--repeats", "1+5+25"
    )  # fmt: skip
    assert built.code == 0, built.err
    assert "12 canaries that are in the set 1 or 5 or 25 times each" in built.out
    canaries = CanarySet.load(tmp_path / "set.canaries.npz")
    often = [at for at, level in enumerate(canaries.levels) if level > 1]
    texts = [*canaries.planted_captions, *canaries.control_captions] * 2
    pixels = PIXELS[300:348].copy()
    pixels[often] = canaries.planted[often]
    samples = ImageSet(pixels, None, tuple(f"{at:02}.png" for at in range(48)), captions=tuple(texts))
    write_images(samples, tmp_path / "gen")
    (tmp_path / "prompts.txt").write_text("\n".join(texts))
    told = call(
        "audit", "--train", tmp_path / "set", "--heldout", folders / "held", "--samples", tmp_path / "gen", "--prompts",
        tmp_path / "prompts.txt", "--canaries", tmp_path / "set.canaries.npz", "--out", tmp_path / "out", "--device", "cpu",
    )  # fmt: skip
    assert told.code == 3, told.out + told.err
    assert "The smallest number of repeats at which they are exposed is 5." in " ".join(told.out.split())
    record = PromptsRecord.model_validate_json((tmp_path / "out" / "prompts.json").read_text())
    assert [(one.group, one.prompts, one.copied.count) for one in record.groups] == [
        ("train", 12, 8),
        ("control", 12, 0),
    ]
    assert sum(one.copied.count for one in record.levels) == 8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--prompts", "none.txt"], "There is no file none.txt"),
        (["--base-samples", "base"], "give the list of prompts"),
    ],
)
def test_a_wrong_question_about_prompts_is_one_line_with_code_2(call, folders, tmp_path, more, message):
    told = call(
        "audit", "--train", folders / "kohya", "--samples", folders / "gen", "--out", tmp_path / "out", *more
    )
    assert told.code == 2
    assert message in told.err
    assert not (tmp_path / "out" / "audit.html").exists()
