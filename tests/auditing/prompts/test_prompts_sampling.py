"""Audits of text-to-image models whose answers are known."""

import numpy as np
import pytest
from prompted_models import PIXELS, TRAINING, Known, audit, canaries, opened

from diffmem.errors import UserError

__all__ = ["opened"]

pytestmark = pytest.mark.usefixtures("few_controls")


def groups_of(found):
    return {one.group: one for one in found.prompts.record.groups}


def test_captions_that_give_back_their_image_are_found_beside_the_base_model(opened):
    lines = []
    found = audit(report=lines.append)
    assert found.verdict.verdict == "copies found"
    groups = groups_of(found)
    assert list(groups) == ["train", "trigger", "new", "empty", "control"]
    train = groups["train"]
    assert (train.own.count, train.copied.count, train.prompts, train.base.copied.count) == (10, 10, 40, 0)
    assert (groups["control"].copied.count, groups["control"].prompts) == (0, 100)
    assert train.control_p_value < 1e-5
    assert found.prompts.prompts[0].seeds == [0, 1]
    model = found.result.model
    assert (model.kind, model.seeds, model.check.problem) == ("text-to-image", (0, 1), None)
    assert "Not done" in found.result.membership.refused
    # 148 prompts of two seeds by two models, 11 evaluations each
    assert any("6,512 evaluations" in line and "one model at a time" in line for line in lines)
    assert "6 steps" in model.sampling
    assert "without guidance" in model.sampling


def test_the_base_model_is_asked_the_same_with_the_same_noise_after_the_model_is_gone(opened):
    found = audit()
    assert [(path, lora) for path, lora, _ in opened.calls] == [("sd", "my.safetensors"), ("sd", None)]
    assert opened.calls[1][2] == [False]  # what was opened before no longer exists
    samples, base = found.found.shown.samples.images, found.prompts.base.images
    copies = np.arange(len(samples)) < 20
    assert np.array_equal(samples[~copies], base[~copies])
    assert (samples[copies] != base[copies]).any(axis=(1, 2, 3)).all()


def test_a_call_that_was_interrupted_takes_the_samples_that_were_made(opened, tmp_path):
    where = {"shards": tmp_path / "samples", "base_shards": tmp_path / "base"}
    first = audit(**where)
    opened.changes = {"shift": 0.1}  # what would be made now is something else
    again = audit(**where)
    assert np.array_equal(first.found.shown.samples.images, again.found.shown.samples.images)
    assert np.array_equal(first.prompts.base.images, again.prompts.base.images)
    assert not np.array_equal(first.prompts.base.images, audit().prompts.base.images)


def test_guidance_strengthens_what_a_prompt_changes(opened):
    plain, guided = audit(lora=None), audit(lora=None, guidance=3.0)
    assert "guidance 3" in guided.result.model.sampling
    spread = [float(one.found.shown.samples.images.std()) for one in (plain, guided)]
    assert spread[1] > 1.3 * spread[0]
    assert plain.prompts.base is None
    assert any("--base" in note for note in plain.prompts.record.notes)


def test_images_of_one_colour_are_no_trials(opened):
    opened.changes = {"constant": "a cat 3"}
    found = audit()
    assert found.prompts.record.unjudged == 2
    assert groups_of(found)["control"].prompts == 99


def test_a_model_that_ignores_its_prompts_is_not_cleared(opened):
    opened.changes = {"deaf": True, "copying": 0}
    found = audit(target=0.2)
    assert found.verdict.verdict == "cannot tell"
    assert not found.prompts.record.follows.follows


def test_a_model_that_follows_its_prompts_and_copies_none_is_cleared(opened):
    opened.changes = {"copying": 0}
    found = audit(target=0.2)
    assert found.verdict.verdict == "none found", found.verdict.sentence
    assert found.prompts.record.follows.follows


def test_canaries_are_asked_for_by_their_captions_and_exposed_by_the_losses_of_the_model(opened):
    found = audit(canaries=canaries(PIXELS), prompts_per_group=8)
    by_model = next(one for one in found.result.exposure if one.source == "model")
    assert by_model.finding == "exposed"
    # A caption that gives back its image has no loss; all five stand above the five of the control group: 1 / C(10, 5)
    assert by_model.planted_scores == pytest.approx([0] * 5, abs=1e-6)
    assert by_model.p_value == pytest.approx(1 / 252)
    assert [one.source for one in found.result.exposure] == ["samples", "model"]
    with pytest.raises(UserError, match="canaries have shape"):
        audit(canaries=canaries(PIXELS[:, :, :4, :4]))


def test_prompts_that_are_too_long_are_listed_and_not_in_private_reports(opened):
    opened.cut = (0, 5)
    wanted = "2 prompts longer than the 14 pieces that the model reads, so that the end was not read"
    assert f"{wanted} (sks dog 0, sks dog 5)." in audit(lora=None).result.notes
    assert f"{wanted}." in audit(lora=None, private=True).result.notes


@pytest.mark.usefixtures("undrawn")
def test_a_private_report_names_no_file_and_no_caption(opened, tmp_path):
    found = audit(private=True, base="secret-base")
    found.save(tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        for secret in (b"sks dog", b"a cat", b"secret-base", b"my.safetensors"):
            assert secret not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("options", "message"),
    [({"lora": None, "base": "copy"}, "the same weights"), ({"base": "other"}, "other sizes")],
)
def test_a_base_that_is_none_is_refused_before_any_sample_is_made(opened, tmp_path, options, message):
    opened.changes = {"digest": "equal"}
    with pytest.raises(UserError, match=message):
        audit(shards=tmp_path / "samples", base_shards=tmp_path / "base", **options)
    assert not (tmp_path / "samples").exists()


def test_heldout_images_whose_captions_are_no_prompts_have_no_losses(opened):
    planted = canaries(PIXELS)  # their five control captions are all control prompts that there may be
    found = audit(canaries=planted, prompts_per_group=5)
    assert groups_of(found)["control"].prompts == 5
    trained = {one.text for one in found.detected.prompts if one.group == "train"}
    assert set(found.detected.scores["membership"]) == {text.casefold() for text in trained}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora": None, "base": "sd"}, "the audited model itself"),
        ({"samples": TRAINING}, "not both"),
        ({"first_seed": 3}, "--first-seed is not for"),
        ({"num": 50}, "--num is not for"),
        ({"executor": "local"}, "leave the executor out"),
        ({"opening": {"weights": "raw"}}, "weights is not for a text-to-image model"),
        ({"guidance": -1.0}, "scale of guidance"),
        ({"model": Known(("",), 0)}, "--lora is for a text-to-image model"),
    ],
)
def test_what_does_not_fit_is_refused(opened, options, message):
    opened.changes = {"digest": "equal"}
    with pytest.raises(UserError, match=message):
        audit(**options)
