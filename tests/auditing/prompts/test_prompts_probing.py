"""Detectors on text-to-image models whose answers are known, with training images and without."""

import json

import pytest
from prompted_models import CAPTIONS, HELDOUT, PIXELS, audit, canaries, opened

import diffmem
from diffmem.data.prompts import PromptList
from diffmem.errors import UserError

__all__ = ["opened"]

pytestmark = pytest.mark.usefixtures("few_controls")


def prompt_list(texts):
    nothing = (None,) * len(texts)
    return PromptList(tuple(texts), nothing, nothing, nothing)


def ranked(**options):
    usual = {
        "prompts": prompt_list([*CAPTIONS[:20], "a bird"]), "controls": prompt_list(HELDOUT.captions[:30]), "guidance": 1.0,
        "seeds_per_prompt": 2, "device": "cpu", "model": "sd", "lora": "my.safetensors",
    }  # fmt: skip
    return diffmem.audit(None, **(usual | options))


@pytest.mark.usefixtures("opened")
def test_every_detector_is_measured_on_the_captions_that_give_back_their_image():
    found = audit()
    record = found.detected.record
    assert {one.key for one in record.detectors} == {
        "agreement", "magnitude", "own_null", "base_null", "sharpness", "membership",
    }  # fmt: skip
    assert record.reference == "training captions"
    scores = found.detected.scores
    copied, others = CAPTIONS[:10], CAPTIONS[10:]
    for key in ("agreement", "base_null", "membership"):
        least = min(scores[key][text] for text in copied)
        assert least > max(scores[key][text] for text in others), key
    assert scores["agreement"][copied[0]] == 0
    # what the base model answers as the model does, no score tells apart
    assert all(scores["membership"][text] == pytest.approx(0, abs=1e-9) for text in others)


@pytest.mark.usefixtures("opened")
def test_without_a_base_model_nothing_is_said_to_be_beside_it():
    found = audit(lora=None)
    assert {one.key for one in found.detected.record.detectors} == {
        "agreement", "magnitude", "own_null", "sharpness",
    }  # fmt: skip


@pytest.mark.usefixtures("opened")
def test_power_is_that_on_canaries_where_the_audit_has_them():
    record = audit(canaries=canaries(PIXELS)).detected.record
    assert record.reference == "canaries"
    assert [(level.repeats, level.prompts) for level in record.detectors[0].levels] == [(1, 5)]


@pytest.mark.usefixtures("opened")
def test_lists_without_training_images_are_ranked_and_nothing_is_decided(tmp_path):
    found = ranked()
    assert found.verdict.verdict == "cannot tell"
    assert found.prompts is None
    record = found.detected.record
    assert {one.prompt for one in record.ranked[:10]} == set(CAPTIONS[:10])
    assert record.reference == "none"
    found.save(tmp_path)
    numbers = json.loads((tmp_path / "detectors.json").read_text())
    assert numbers["ranked"][0]["p_value"] == pytest.approx(1 / 31)
    assert "no training images" in (tmp_path / "audit.html").read_text()
    assert not (tmp_path / "prompts.json").exists()


@pytest.mark.usefixtures("opened")
def test_lists_of_prompts_that_do_not_fit_an_audit_are_refused():
    for options, message in (
        ({"controls": None}, "--prompts and --controls"),
        ({"controls": prompt_list(["sks dog 3"])}, "take it out of one list"),
        ({"canaries": None, "num": 5}, "--num is not for"),
        ({"heldout": HELDOUT}, "--heldout is for an audit with the training images"),
        ({"canaries": canaries(PIXELS)}, "--canaries is for an audit with the training images"),
    ):
        with pytest.raises(UserError, match=message):
            ranked(**options)
    with pytest.raises(UserError, match="without training images"):
        audit(controls=prompt_list(["a"]))
    with pytest.raises(UserError, match="belongs to samples"):
        audit(prompts=prompt_list(["a"]))
