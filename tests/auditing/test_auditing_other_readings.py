import numpy as np
import pytest
from audit_tools import digits, image_set

from diffmem.auditing import AuditRequest, OtherSource, audit
from diffmem.auditing.other_readings import TURNS

TRAINING, HELDOUT, FRESH = digits(400, 400, 400)


def ask(tmp_path, samples, training=TRAINING, **more):
    return audit(
        AuditRequest(
            training=image_set(training), heldout=image_set(HELDOUT) if training is TRAINING else None,
            samples=image_set(samples), **more,
        ),
        tmp_path,
    ).result  # fmt: skip


@pytest.mark.parametrize(("text", "turn"), TURNS, ids=[text for text, _ in TURNS])
def test_copies_in_another_orientation_are_found(tmp_path, text, turn):
    samples = np.concatenate([turn(TRAINING[:60]), turn(FRESH[:240])])
    result = ask(tmp_path, samples)
    assert result.verdict.verdict == "copies found"
    assert max(one.copies for one in result.readings) >= 60
    back = {"turned by 90 degrees": "turned by 270 degrees", "turned by 270 degrees": "turned by 90 degrees"}
    assert f"samples {back.get(text, text)}" in {one.text for one in result.readings if one.copies}


def test_the_turns_are_the_seven_others_of_a_square():
    image = np.arange(6).reshape(1, 1, 2, 3)
    found = {turn(image).tobytes() + bytes(turn(image).shape) for _, turn in TURNS}
    assert len(found | {image.tobytes() + bytes(image.shape)}) == 8


def test_fresh_samples_are_no_copies_in_any_orientation(tmp_path):
    result = ask(tmp_path, FRESH[:320])
    assert result.verdict.verdict == "none found"
    assert not any(one.copies or one.fits_better for one in result.readings)


@pytest.mark.parametrize(
    "change",
    [lambda images: images * 0.4 + 100, lambda images: images * 0.9 + 25],
    ids=["less contrast", "brighter"],
)
def test_copies_of_other_brightness_and_contrast_are_found_and_fresh_samples_cleared(tmp_path, change):
    def changed(images):
        return np.rint(change(images.astype(float))).clip(0, 255).astype(np.uint8)

    leaky = ask(tmp_path, changed(np.concatenate([TRAINING[:60], FRESH[:260]])))
    assert leaky.verdict.verdict == "copies found"
    clean = ask(tmp_path, changed(FRESH[:320]))
    assert clean.verdict.verdict != "copies found"


def test_samples_whose_files_can_be_read_otherwise_are_compared_so_too(tmp_path):
    samples = np.concatenate([TRAINING[:60], FRESH[:260]])
    other = OtherSource(
        "transparency dropped", "--samples-read alpha=drop", lambda progress: image_set(samples)
    )
    result = ask(tmp_path, 255 - FRESH[:320] // 3, other_samples=[other])
    assert result.verdict.verdict == "copies found"
    assert "--samples-read alpha=drop" in result.verdict.sentence


def test_stretched_samples_are_compared_as_squares(tmp_path):
    wide = np.repeat(np.concatenate([TRAINING[:60], FRESH[:260]]), 2, axis=3)
    result = ask(tmp_path, wide)
    assert result.verdict.verdict == "copies found"
    assert "samples stretched to 8 x 8 pixels" in result.verdict.sentence
